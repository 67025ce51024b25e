"""What each picture shows, as columns of numbers: every epoch, after derivation, before any thinning or clipping.

The pictures are drawn from the same derivations. The three kinds of "no number" stay apart: None is nothing to show,
NaN and infinities are what the picture marks as not finite, an epoch without a row is in no column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.analysis.frame import RESUMED
from mlflow_ddpm.plotting.series import Series, around, changes, rate_name, series

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MARK", "shown"]

MARK = "mark"  # the column of words: what is marked at an epoch
_LOSS = ("loss_mean", "loss_min", "loss_max")
_PLAIN = {
    "loss_linear": _LOSS,
    "loss_log": _LOSS,
    "learning_rate": ("lr",),
    "grad_norm": ("grad_norm",),
    "gpu_memory": ("gpu_allocated_mb", "gpu_reserved_mb", "gpu_peak_mb"),
    "ema_divergence": ("ema_delta_norm",),
}
_IN_DASHBOARD = (
    *("loss_linear", "loss_log", "loss_derivative", "learning_rate", "grad_norm", "ema_divergence"),
    *("throughput", "epoch_timing", "gpu_memory"),
)
Column = list[float | None]


def shown(plot: str, history: pd.DataFrame) -> dict[str, list[int] | Column | list[str]]:
    """Return the columns of a plot by name: ``epoch``, what is drawn, and what is marked (``best``, ``resumed``)."""
    epochs = [int(epoch) for epoch in history["epoch"]]
    names = _IN_DASHBOARD if plot == "training_dashboard" else (plot,)
    drawn = {column: values for name in names for column, values in _drawn(name, history).items()}
    return {"epoch": epochs, **drawn, MARK: _marks(names, history)}


def _drawn(plot: str, history: pd.DataFrame) -> dict[str, Column]:
    if plot in _PLAIN:
        return {name: _measured(history, name) for name in _PLAIN[plot]}
    mean = series(history, "loss_mean")
    if plot == "loss_derivative":
        return {"loss_mean_change": _finite(changes(mean))}
    if plot == "loss_distribution":
        low, high = around(history)
        return {
            "loss_mean": _measured(history, "loss_mean"),
            "loss_median": _measured(history, "loss_median"),
            "loss_mean_minus_std": _finite(low),
            "loss_mean_plus_std": _finite(high),
        }
    name = rate_name(history) if plot == "throughput" else "epoch_time_sec"
    of = series(history, name).finite
    middle = float(np.median(of)) if len(of) else None
    return {name: _measured(history, name), f"{name}_median": [middle] * len(history)}


def _measured(history: pd.DataFrame, name: str) -> Column:
    import pandas as pd

    if name not in history:
        return [None] * len(history)
    return [None if value is pd.NA else float(value) for value in history[name].astype(object)]


def _finite(of: Series) -> Column:
    return [float(value) if np.isfinite(value) else None for value in of.value]


def _marks(plots: tuple[str, ...], history: pd.DataFrame) -> list[str]:
    """Return for each epoch what is marked there; a run is resumed before the first epoch of its next life."""
    value = series(history, "loss_mean").value
    if plots == ("loss_log",):
        value = np.where(value > 0, value, np.nan)  # what a log axis cannot show is not its best
    best = int(np.nanargmin(value)) if np.isfinite(value).any() and {"loss_linear", "loss_log"} & set(plots) else -1
    resumed = set(history.attrs.get(RESUMED, ()))
    return [
        " ".join(word for word, so in (("best", row == best), ("resumed", epoch in resumed)) if so)
        for row, epoch in enumerate(history["epoch"])
    ]
