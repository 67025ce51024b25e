"""A run's key results, each with unit and epoch, and the table that shows them in a report or run description."""

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.extra_metrics import FORMER_NAMES, INSIGHT, PIPELINE_METRICS, metric
from mlflow_ddpm.core.formatting import format_duration, format_number
from mlflow_ddpm.core.markdown import Table

Line = tuple[str, str, str]  # result, value with unit, epoch


class KeyResult(NamedTuple):
    """One key result."""

    name: str  # for programs
    label: str  # for readers
    value: float | None  # None: not measured
    unit: str = ""
    epoch: int | None = None  # where it was measured, if at one epoch

    @property
    def text(self) -> str:
        """The value with its unit, for readers."""
        if self.value is None:
            return "not measured"
        if self.unit == "s":
            return format_duration(self.value)
        return f"{format_number(self.value)} {self.unit}".strip()


def key_results(history: RunHistory) -> list[KeyResult]:
    """Return a run's key results: those that every run has, then its extras."""
    return [*table_results(history), *extra_results(history)]


def table_results(history: RunHistory) -> list[KeyResult]:
    """Return the results that every run has, measured or not."""
    summary, rows = history.summary, history.rows
    has_counts = any(row.nonfinite_batches is not None for row in rows)
    speeds = [value for _, value in history.points("samples_per_sec")]
    speed = median(speeds) if speeds else None
    peaks = history.points("gpu_peak_mb")
    has_end = bool(history.run.get("end_time_ms")) or summary.total_time_sec is None
    total = "Total wall time" if has_end else "Wall time so far (the run has not ended)"
    epoch, peak = max(peaks, key=lambda point: point[1]) if peaks else (None, None)
    results = [
        KeyResult("best_loss", "Best loss (lowest epoch mean)", summary.best_loss, "", summary.best_epoch),
        KeyResult("final_loss", "Final loss (epoch mean)", summary.final_loss, "", summary.last_epoch),
        KeyResult("epochs", "Total epochs", summary.epochs),
        KeyResult("training_time_sec", "Training time (sum of epochs)", summary.training_time_sec, "s"),
        KeyResult("total_time_sec", total, summary.total_time_sec, "s"),
        KeyResult("samples_per_sec_median", "Median throughput", speed, metric("samples_per_sec").unit),
        KeyResult("gpu_peak_mb", "GPU memory peak", peak, metric("gpu_peak_mb").unit, epoch),
        KeyResult("nonfinite_batches", "Non-finite batches", summary.nonfinite_batches if has_counts else None),
    ]
    return [result._replace(label=history.worded(result.label)) for result in results]


def extra_results(history: RunHistory) -> list[KeyResult]:
    """Return the last finite value of each extra, those of the pipeline first; training diagnostics are no results."""
    names = {name for name in history.extra_names if metric(name).category != INSIGHT}
    former = {new: old for old, new in FORMER_NAMES.items()}
    known = [name for m in PIPELINE_METRICS for name in (m.name, former[m.name]) if name in names]
    results = []
    for name in (*known, *sorted(names.difference(known))):
        epoch, value = next(reversed(history.points(name)), (None, None))
        results.append(KeyResult(name, f"{metric(name).label}, last", value, metric(name).unit, epoch))
    return results


def key_results_table(history: RunHistory) -> Table:
    """Return one line per key result, with its unit and the epochs it comes from."""
    ends = (history.rows[0].epoch, history.rows[-1].epoch) if history.rows else ()
    epochs = {
        "epochs": " to ".join(map(str, dict.fromkeys(ends))),
        "nonfinite_batches": history.format_epochs(row.epoch for row in history.rows if row.nonfinite_batches),
    }
    lines = [(result.label, result.text, epochs.get(result.name, _epoch(result))) for result in table_results(history)]
    return Table(("Result", "Value", history.worded("Epoch")), [*lines, *_extra_lines(history)], "llr")


def _extra_lines(history: RunHistory) -> Iterator[Line]:
    """Yield the last finite value of each extra, with both ends of its range: the table does not know which is good."""
    for result in extra_results(history):
        if result.value is None:
            yield result.label, "no finite value", ""
            continue
        values = [value for _, value in history.points(result.name)]
        low, high = min(values), max(values)
        span = f" (range {format_number(low)} to {format_number(high)})" if low < high else ""
        yield result.label, result.text + span, _epoch(result)


def _epoch(result: KeyResult) -> str:
    return "" if result.epoch is None else str(result.epoch)
