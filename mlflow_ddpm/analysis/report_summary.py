"""The report's summary table: a run's key results, each with its unit and where it was measured."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow_ddpm.analysis.key_results import Result, extra_results, run_results
from mlflow_ddpm.core.formatting import format_epochs, format_number
from mlflow_ddpm.core.markdown import Table
from mlflow_ddpm.core.metrics import EpochMetrics, finite_points

__all__ = ["summary_table"]

Line = tuple[str, str, str]  # result, value with unit, epoch


def summary_table(rows: Sequence[EpochMetrics]) -> Table:
    """Return one line per key result; what was not measured is said to be so."""
    where = {
        "epochs": _span(rows),
        "nonfinite_batches": format_epochs(row.epoch for row in rows if row.nonfinite_batches),
    }
    lines = [(of.label, of.words, where.get(of.name, _epoch(of))) for of in run_results(rows)]
    lines += [_extra(rows, of) for of in extra_results(rows)]
    return Table(("Result", "Value", "Epoch"), lines, "llr")


def _epoch(of: Result) -> str:
    return "" if of.epoch is None else str(of.epoch)


def _span(rows: Sequence[EpochMetrics]) -> str:
    ends = (rows[0].epoch, rows[-1].epoch) if rows else ()
    return " to ".join(map(str, dict.fromkeys(ends)))


def _extra(rows: Sequence[EpochMetrics], of: Result) -> Line:
    """Return the last finite value; whether high or low is good is not known, so both ends are named."""
    if of.value is None:
        return of.label, "no finite value", ""
    values = [value for _, value in finite_points(rows, of.name)]
    low, high = min(values), max(values)
    span = f" (range {format_number(low)} to {format_number(high)})" if low < high else ""
    return of.label, of.words + span, _epoch(of)
