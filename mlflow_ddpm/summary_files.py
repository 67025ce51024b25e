"""A run's key results as files: ``training_summary.csv`` in full precision, ``training_summary.tex`` for a paper.

Both hold what the report's summary table holds, in its order; what was not measured has an empty cell in the CSV, and
no line in the other.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from mlflow_ddpm.files import replace_file
from mlflow_ddpm.latex import booktabs
from mlflow_ddpm.markdown import Table
from mlflow_ddpm.metrics import EpochMetrics, metric
from mlflow_ddpm.readable import format_duration, format_number
from mlflow_ddpm.report_summary import key_extras
from mlflow_ddpm.summary import summarise

__all__ = ["SUMMARY_NAME", "Result", "results", "write_summary"]

SUMMARY_NAME = "training_summary"


class Result(NamedTuple):
    """One key result."""

    name: str  # for programs
    label: str  # for readers
    value: float | None  # None: not measured
    unit: str = ""
    epoch: int | None = None  # where it was measured, if at one epoch


def results(rows: Sequence[EpochMetrics]) -> list[Result]:
    """Return a run's key results; the rows are in order of epoch."""
    of = summarise(rows)
    counted = any(row.nonfinite_batches is not None for row in rows)
    return [
        Result("best_loss", "Best loss (lowest epoch mean)", of.best_loss, "", of.best_epoch),
        Result("final_loss", "Final loss (epoch mean)", of.final_loss, "", of.last_epoch),
        Result("epochs", "Total epochs", of.epochs),
        Result("total_time_sec", "Wall time", of.total_time_sec, "s"),
        _median_throughput(rows),
        _gpu_peak(rows),
        Result("nonfinite_batches", "Non-finite batches", of.nonfinite_batches if counted else None),
        *(_last(rows, name) for name in key_extras(rows)),
    ]


def write_summary(rows: Sequence[EpochMetrics], directory: Path) -> list[Path]:
    """Write both files, each all or nothing, and return their paths."""
    found = results(rows)
    table, tex = (directory / f"{SUMMARY_NAME}.{suffix}" for suffix in ("csv", "tex"))
    replace_file(table, _csv(found).encode())
    replace_file(
        tex,
        booktabs(
            Table(("Result", "Value", "Epoch"), [_cells(r) for r in found if r.value is not None], "llr")
        ).encode(),
    )
    return [table, tex]


def _median_throughput(rows: Sequence[EpochMetrics]) -> Result:
    values = [value for _, value in _finite((row.epoch, row.samples_per_sec) for row in rows)]
    unit = metric("samples_per_sec").unit
    return Result("samples_per_sec_median", "Median throughput", median(values) if values else None, unit)


def _gpu_peak(rows: Sequence[EpochMetrics]) -> Result:
    points = _finite((row.epoch, row.gpu_peak_mb) for row in rows)
    epoch, peak = max(points, key=lambda point: point[1]) if points else (None, None)
    return Result("gpu_peak_mb", "GPU memory peak", peak, metric("gpu_peak_mb").unit, epoch)


def _last(rows: Sequence[EpochMetrics], name: str) -> Result:
    """Return the last finite value of an extra metric."""
    about = metric(name)
    points = _finite((row.epoch, row.extra.get(name)) for row in rows)
    epoch, value = points[-1] if points else (None, None)
    return Result(name, f"{about.label}, last", value, about.unit, epoch)


def _finite(points: Iterable[tuple[int, float | None]]) -> list[tuple[int, float]]:
    return [(epoch, float(v)) for epoch, v in points if v is not None and math.isfinite(v)]


def _csv(found: Sequence[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Result._fields)
    writer.writerows([["" if cell is None else cell for cell in result] for result in found])
    return text.getvalue()


def _cells(result: Result) -> tuple[str, str, str]:
    if result.name == "total_time_sec":
        text = format_duration(result.value)
    else:
        text = f"{format_number(result.value)} {result.unit}".strip()
    return result.label, text, "" if result.epoch is None else str(result.epoch)
