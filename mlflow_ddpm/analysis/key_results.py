"""A run's key results, each with unit and epoch: what report, run page, papers and comparisons state."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from mlflow_ddpm.core.extra_metrics import FORMER_NAMES, INSIGHT, PIPELINE_METRICS, metric
from mlflow_ddpm.core.formatting import format_duration, format_number
from mlflow_ddpm.core.metrics import EpochMetrics, finite_points
from mlflow_ddpm.core.run_summary import summarise

__all__ = ["Result", "extra_results", "results", "run_results"]


class Result(NamedTuple):
    """One key result."""

    name: str  # for programs
    label: str  # for readers
    value: float | None  # None: not measured
    unit: str = ""
    epoch: int | None = None  # where it was measured, if at one epoch

    @property
    def words(self) -> str:
        """The value with its unit, for readers."""
        if self.value is None:
            return "not measured"
        if self.name == "total_time_sec":
            return format_duration(self.value)
        return f"{format_number(self.value)} {self.unit}".strip()


def results(rows: Sequence[EpochMetrics]) -> list[Result]:
    """Return a run's key results; the rows are in order of epoch."""
    return [*run_results(rows), *extra_results(rows)]


def run_results(rows: Sequence[EpochMetrics]) -> list[Result]:
    """Return the results that every run has, measured or not."""
    of = summarise(rows)
    counted = any(row.nonfinite_batches is not None for row in rows)
    speeds = [value for _, value in finite_points(rows, "samples_per_sec")]
    speed = median(speeds) if speeds else None
    peaks = finite_points(rows, "gpu_peak_mb")
    epoch, peak = max(peaks, key=lambda point: point[1]) if peaks else (None, None)
    return [
        Result("best_loss", "Best loss (lowest epoch mean)", of.best_loss, "", of.best_epoch),
        Result("final_loss", "Final loss (epoch mean)", of.final_loss, "", of.last_epoch),
        Result("epochs", "Total epochs", of.epochs),
        Result("total_time_sec", "Wall time", of.total_time_sec, "s"),
        Result("samples_per_sec_median", "Median throughput", speed, metric("samples_per_sec").unit),
        Result("gpu_peak_mb", "GPU memory peak", peak, metric("gpu_peak_mb").unit, epoch),
        Result("nonfinite_batches", "Non-finite batches", of.nonfinite_batches if counted else None),
    ]


def extra_results(rows: Sequence[EpochMetrics]) -> list[Result]:
    """Return the last finite value of each extra, those of the pipeline first; its insights are no results."""
    found = {name for row in rows for name in row.extra if metric(name).category != INSIGHT}
    former = {new: old for old, new in FORMER_NAMES.items()}
    known = [name for m in PIPELINE_METRICS for name in (m.name, former[m.name]) if name in found]
    return [_last(rows, name) for name in (*known, *sorted(found.difference(known)))]


def _last(rows: Sequence[EpochMetrics], name: str) -> Result:
    about, points = metric(name), finite_points(rows, name)
    epoch, value = points[-1] if points else (None, None)
    return Result(name, f"{about.label}, last", value, about.unit, epoch)
