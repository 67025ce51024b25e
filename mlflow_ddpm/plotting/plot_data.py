"""The numbers beside each printed figure: a CSV of what it shows, every row, before any thinning or clipping.

The pictures are drawn from the same derivations. The three kinds of "no number" stay apart: an empty cell is nothing to
show, ``nan`` and ``inf`` are what the picture marks as not finite, an epoch without a row is in no line.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.csv_table import csv_bytes
from mlflow_ddpm.plotting.series import Series, changes, plus_minus_std, rate_name, series

MARK = "mark"  # the column of words: what is marked in a row
Column = list[float | None]
Columns = Callable[[RunHistory], Mapping[str, Column]]


def measured(*names: str) -> Columns:
    """Return the columns of metrics as they were measured."""
    return lambda history: {name: _measured(history, name) for name in names}


def change_columns(history: RunHistory) -> dict[str, Column]:
    """Return the change of the mean loss from the row before."""
    return {"loss_mean_change": _finite(changes(series(history, "loss_mean")))}


def distribution_columns(history: RunHistory) -> dict[str, Column]:
    """Return mean, median and one standard deviation to either side of the mean."""
    low, high = plus_minus_std(history)
    both = {name: _measured(history, name) for name in ("loss_mean", "loss_median")}
    return {**both, "loss_mean_minus_std": _finite(low), "loss_mean_plus_std": _finite(high)}


def rate_columns(history: RunHistory) -> dict[str, Column]:
    """Return the throughput and its median."""
    return _with_median(history, rate_name(history))


def time_columns(history: RunHistory) -> dict[str, Column]:
    """Return the times of the epochs and their median."""
    return _with_median(history, "epoch_time_sec")


def plot_columns(
    columns: Sequence[Columns], history: RunHistory, best: Series | None = None
) -> dict[str, list[int] | Column | list[str]]:
    """Return a plot's columns by name: ``epoch``, what is drawn, and what is marked (``best``, ``resumed``).

    ``best`` is the series whose lowest value has a star.
    """
    drawn = {name: values for part in columns for name, values in part(history).items()}
    epochs = [row.epoch for row in history.rows]
    star = int(np.nanargmin(best.value)) if best is not None and len(best.finite) else -1
    resumed = set(history.resumed_at_epochs)
    marks = [
        " ".join(word for word, so in (("best", row == star), ("resumed", epoch in resumed)) if so)
        for row, epoch in enumerate(epochs)
    ]
    return {"epoch": epochs, **drawn, MARK: marks}


def write_plot_data(columns: Mapping[str, Sequence[int] | Sequence[float | None] | Sequence[str]], path: Path) -> Path:
    """Write a plot's columns as CSV, all or nothing, and return the path."""
    replace_file(path, csv_bytes(list(columns), zip(*columns.values(), strict=True)))
    return path


def _with_median(history: RunHistory, name: str) -> dict[str, Column]:
    finite = series(history, name).finite
    median = float(np.median(finite)) if len(finite) else None
    return {name: _measured(history, name), f"{name}_median": [median] * len(history.rows)}


def _measured(history: RunHistory, name: str) -> Column:
    values = [row.value(name) for row in history.rows]
    return [None if value is None else float(value) for value in values]


def _finite(values: Series) -> Column:
    return [float(value) if np.isfinite(value) else None for value in values.value]
