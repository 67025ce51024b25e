"""A run's key results as files: ``training_summary.csv`` in full precision, ``training_summary.tex`` for a paper.

Both hold what the report's summary table holds, in its order; what was not measured has an empty cell in the CSV, and
no line in the other.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mlflow_ddpm.analysis.key_results import Result, results
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.markdown import Table
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.reporting.latex import booktabs
from mlflow_ddpm.storage.layout import SUMMARY_NAME

__all__ = ["SUMMARY_NAME", "write_summary"]


def write_summary(rows: Sequence[EpochMetrics], directory: Path) -> list[Path]:
    """Write both files, each all or nothing, and return their paths."""
    found = results(rows)
    lines = [(of.label, of.words, "" if of.epoch is None else str(of.epoch)) for of in found if of.value is not None]
    table, tex = (directory / f"{SUMMARY_NAME}.{suffix}" for suffix in ("csv", "tex"))
    replace_file(table, _csv(found).encode())
    replace_file(tex, booktabs(Table(("Result", "Value", "Epoch"), lines, "llr")).encode())
    return [table, tex]


def _csv(found: Sequence[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Result._fields)
    writer.writerows([["" if cell is None else cell for cell in result] for result in found])
    return text.getvalue()
