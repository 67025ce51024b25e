"""The tables of a comparison: the runs' key results, and the hyperparameters in which they differ.

Each is a Markdown table, a CSV in full precision and a LaTeX ``tabular``.
"""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from mlflow_ddpm.analysis.key_results import KeyResult, key_results
from mlflow_ddpm.core.csv_table import Cell, csv_bytes
from mlflow_ddpm.core.formatting import NOT_MEASURED, format_duration, format_number
from mlflow_ddpm.core.markdown import Code, Table
from mlflow_ddpm.publishing.compared_runs import ComparedRun
from mlflow_ddpm.reporting.paper_tables import booktabs

BEST_MARK = "\u2605"
_SHORT = {  # head cells of the results that every run has
    "best_loss": "Best loss",
    "final_loss": "Final loss",
    "training_time_sec": "Training time",
    "total_time_sec": "Total wall time",
    "samples_per_sec_median": "Median throughput\n(samples/s)",
    "gpu_peak_mb": "GPU peak\n(MiB)",
    "nonfinite_batches": "Non-finite\nbatches",
}
_GROUPED = ("best_loss", "final_loss")
_MOST_COLUMNS = 14  # of runs


class ComparedTable(NamedTuple):
    """A table for readers, and the same for programs: a header and rows."""

    words: Table
    data: Sequence[Sequence[Cell]]

    def as_csv(self) -> bytes:
        """Return the CSV: UTF-8, numbers in full precision, an empty cell for what was not measured."""
        return csv_bytes((), self.data)

    def as_latex(self) -> bytes:
        """Return the table as a LaTeX ``tabular``; the best of all is bold there."""
        head, rows, align = self.words
        rows = rows or [["none", *[""] * (len(head) - 1)]]
        text = booktabs(Table([cell.replace("\n", " ") for cell in head], rows, align))
        return re.sub(rf"& {BEST_MARK} (.+?) &", r"& \\textbf{\1} &", text).encode()


def best_of_all(runs: Sequence[ComparedRun]) -> tuple[ComparedRun, KeyResult] | None:
    """Return the run with the lowest mean loss of an epoch, the first of equals; None if no loss was finite."""
    results = [(run, _results(run)["best_loss"]) for run in runs]
    finite = [(run, result) for run, result in results if result.value is not None]
    return min(finite, key=lambda pair: pair[1].value or 0.0) if finite else None


def results_table(runs: Sequence[ComparedRun]) -> ComparedTable:
    """Return one row a run with its key results, those that no run measured left out."""
    by_run = {run.name: _results(run) for run in runs}
    names = list(dict.fromkeys(name for results in by_run.values() for name in reversed(results)))
    names = [name for name in names if any(name in r and r[name].value is not None for r in by_run.values())]
    best = best_of_all(runs)
    history = runs[0].history
    short = {**_SHORT, "best_epoch": f"at {history.axis_label.lower()}", "epochs": history.worded("Epochs")}
    head = ["Run", *(short.get(name, f"{name},\nlast") for name in names)]
    rows: list[list[str]] = []
    data: list[list[Cell]] = [["run", "run_id", *names]]
    for run in runs:
        results = [by_run[run.name].get(name, KeyResult(name, name, None)) for name in names]
        is_best = best is not None and best[0] is run
        marks = [f"{BEST_MARK} " if is_best and name == "best_loss" else "" for name in names]
        rows.append([run.name, *(mark + _text(result) for mark, result in zip(marks, results, strict=True))])
        data.append([run.name, run.run_id, *(result.value for result in results)])
    return ComparedTable(Table(head, rows, "l" + "r" * len(names)), data)


def hyperparameters_table(runs: Sequence[ComparedRun]) -> ComparedTable:
    """Return one row a hyperparameter that is not the same in all runs whose hyperparameters are known.

    Of many runs the table has a row each, and a column for each such hyperparameter.
    """
    known = [run.config for run in runs if run.config]
    keys = list(dict.fromkeys(key for config in known for key in config))
    differing = [key for key in keys if len({config.get(key) for config in known}) > 1]
    rows = [[key, *(run.config.get(key, NOT_MEASURED) for run in runs)] for key in differing]
    data = [[key, *(run.config.get(key, "") for run in runs)] for key in differing]
    names = [run.name for run in runs]
    if len(runs) > _MOST_COLUMNS and differing:
        turned = [list(row) for row in zip(["Run", *names], *rows, strict=True)]
        turned_data = [list(row) for row in zip(["run", *names], *data, strict=True)]
        return ComparedTable(Table(turned[0], turned[1:], "l" + "r" * len(differing)), turned_data)
    words = Table(["Hyperparameter", *names], [[Code(key), *cells] for key, *cells in rows], "l" + "r" * len(names))
    return ComparedTable(words, [["hyperparameter", *names], *data])


def groups_table(groups: Mapping[str, Sequence[ComparedRun]]) -> ComparedTable:
    """Return one row a group of repeats: how many runs, and mean, lowest and highest of their best and final losses."""
    head = ["Setting", "Runs", *(cell for name in _GROUPED for cell in (f"{_SHORT[name]},\nmean", "lowest", "highest"))]
    rows: list[list[str]] = []
    data: list[list[Cell]] = [
        ["setting", "runs", *(f"{name}_{kind}" for name in _GROUPED for kind in ("mean", "min", "max"))]
    ]
    for setting, runs in groups.items():
        numbers: list[float | None] = []
        for name in _GROUPED:
            values = [value for run in runs if (value := _results(run)[name].value) is not None]
            numbers += [fmean(values), min(values), max(values)] if values else [None] * 3
        rows.append([setting, str(len(runs)), *map(format_number, numbers)])
        data.append([setting, len(runs), *numbers])
    return ComparedTable(Table(head, rows, "l" + "r" * (len(head) - 1)), data)


def _results(run: ComparedRun) -> dict[str, KeyResult]:
    """Return a run's key results by name; of an extra that bears the name of another result, that other one."""
    best_loss, *others = key_results(run.history)
    best_epoch = KeyResult("best_epoch", "Best epoch", best_loss.epoch)
    return {result.name: result for result in reversed([best_loss, best_epoch, *others])}


def _text(result: KeyResult) -> str:
    if result.unit == "s" and result.name in _SHORT:
        return format_duration(result.value).partition(" (")[0] if result.value is not None else NOT_MEASURED
    return format_number(result.value)
