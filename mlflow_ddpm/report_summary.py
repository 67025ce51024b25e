"""The report's summary table: a run's key results, each with its unit and its epoch."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from mlflow_ddpm.markdown import Table
from mlflow_ddpm.metrics import INSIGHT, PIPELINE_METRICS, EpochMetrics, metric
from mlflow_ddpm.readable import format_duration, format_epochs, format_number
from mlflow_ddpm.report_readings import finite_points
from mlflow_ddpm.summary import Summary

__all__ = ["key_extras", "summary_table"]

_NOT_MEASURED = "not measured"
Line = tuple[str, str, str]  # result, value with unit, epoch


def summary_table(rows: Sequence[EpochMetrics], summary: Summary) -> Table:
    """Return one line per key result; what was not measured is said to be so."""
    lines = [
        ("Best loss (lowest epoch mean)", _value(summary.best_loss), _epoch(summary.best_epoch)),
        ("Final loss (epoch mean)", _value(summary.final_loss), _epoch(summary.last_epoch)),
        ("Total epochs", str(summary.epochs), _span(summary)),
        ("Wall time", format_duration(summary.total_time_sec), ""),
        _throughput(rows),
        _gpu_peak(rows),
        _nonfinite(rows, summary),
        *(_extra(rows, name) for name in key_extras(rows)),
    ]
    return Table(("Result", "Value", "Epoch"), lines, "llr")


def key_extras(rows: Sequence[EpochMetrics]) -> list[str]:
    """Return the extras that are results, those of the pipeline first; its insights are for the table per epoch."""
    found = {name for row in rows for name in row.extra if metric(name).category != INSIGHT}
    known = [m.name for m in PIPELINE_METRICS if m.name in found]
    return known + sorted(found.difference(known))


def _value(value: float | None, unit: str = "") -> str:
    if value is None:
        return _NOT_MEASURED
    return f"{format_number(value)} {unit}" if unit else format_number(value)


def _epoch(epoch: int | None) -> str:
    return "" if epoch is None else str(epoch)


def _span(summary: Summary) -> str:
    if summary.first_epoch == summary.last_epoch:
        return _epoch(summary.last_epoch)
    return f"{summary.first_epoch} to {summary.last_epoch}"


def _throughput(rows: Sequence[EpochMetrics]) -> Line:
    points = finite_points(rows, "samples_per_sec")
    middle = median(value for _, value in points) if points else None
    return "Median throughput", _value(middle, metric("samples_per_sec").unit), ""


def _gpu_peak(rows: Sequence[EpochMetrics]) -> Line:
    points = finite_points(rows, "gpu_peak_mb")
    epoch, peak = max(points, key=lambda p: p[1]) if points else (None, None)
    return "GPU memory peak", _value(peak, metric("gpu_peak_mb").unit), _epoch(epoch)


def _nonfinite(rows: Sequence[EpochMetrics], summary: Summary) -> Line:
    counted = any(row.nonfinite_batches is not None for row in rows)
    where = format_epochs(row.epoch for row in rows if row.nonfinite_batches)
    return "Non-finite batches", str(summary.nonfinite_batches) if counted else _NOT_MEASURED, where


def _extra(rows: Sequence[EpochMetrics], name: str) -> Line:
    """Return the last finite value; whether high or low is good is not known, so both ends are named."""
    points, about = finite_points(rows, name), metric(name)
    if not points:
        return f"{about.label}, last", "no finite value", ""
    low, high = min(v for _, v in points), max(v for _, v in points)
    span = f" (range {format_number(low)} to {format_number(high)})" if low < high else ""
    return f"{about.label}, last", _value(points[-1][1], about.unit) + span, str(points[-1][0])
