"""The numbers beside each printed figure: a CSV of what it shows, and the run's key results as CSV and LaTeX.

A picture of ten thousand epochs draws their envelope; the CSV has every one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.plotting.plot_columns import shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_plot_data"]


def write_plot_data(history: pd.DataFrame, plots: Iterable[str], directory: Path) -> list[Path]:
    """Write ``<plot>.csv`` for each plot, and the summary's two files, each all or nothing; return their paths.

    An empty cell is what was not measured or does not exist, ``nan`` and ``inf`` are what was measured and not finite.
    """
    written = []
    for plot in plots:
        columns = shown(plot, history)
        lines = [",".join(columns), *(",".join(map(_cell, row)) for row in zip(*columns.values(), strict=True))]
        path = directory / f"{plot}.csv"
        replace_file(path, ("\n".join(lines) + "\n").encode())
        written.append(path)
    return written


def _cell(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else repr(value)
