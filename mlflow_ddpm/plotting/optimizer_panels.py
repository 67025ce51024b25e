"""Panels of how the weights move: learning rate, gradient norm, and how far the average of the weights is behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.core.extra_metrics import axis_label
from mlflow_ddpm.plotting.annotations import Note, note, nothing_to_draw, number
from mlflow_ddpm.plotting.axes import epoch_axis, linear_axis
from mlflow_ddpm.plotting.marks import broken, gathered, line, missing, offscale, resumed
from mlflow_ddpm.plotting.series import Series, series

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["ema_divergence", "grad_norm", "learning_rate"]


def learning_rate(ax: Axes, history: pd.DataFrame) -> None:
    """Draw the learning rate of each epoch's last batch."""
    _single_line(ax, history, "lr", "log_batch got no lr")


def grad_norm(ax: Axes, history: pd.DataFrame) -> None:
    """Draw the gradient norm before clipping, averaged over each epoch's batches."""
    _single_line(ax, history, "grad_norm", "log_batch got no grad_norm")


def ema_divergence(ax: Axes, history: pd.DataFrame) -> None:
    """Draw the distance between the live weights and their EMA shadow at the end of each epoch."""
    _single_line(ax, history, "ema_delta_norm", "end_epoch got no ema_model")


def _single_line(ax: Axes, history: pd.DataFrame, name: str, why_not: str) -> None:
    of = series(history, name)
    if nothing_to_draw(ax, of, why_not):
        return
    epoch_axis(ax, history)
    linear_axis(ax, axis_label(name), of.finite)
    line(ax, of, "C0")
    clipped = offscale(ax, of)
    note(
        ax,
        [
            _last(of) if clipped else _extremes(of),
            broken(ax, of),
            clipped,
            missing(of),
            resumed(history),
            gathered(ax, of),
        ],
    )


def _extremes(of: Series) -> Note:
    """Say where the series is highest and where it ends."""
    top, last = int(np.nanargmax(of.value)), float(of.finite[-1])
    where = f" at epoch {of.epoch[top]:.0f}"
    if len(of.finite) == 1:
        return Note(number(last) + where)
    if of.finite.min() == of.finite.max():
        return Note(f"{number(last)} throughout")
    highest = f"highest {number(of.value[top])}"
    end = "the last" if not of.drawable[top + 1 :].any() else f"last {number(last)}"
    return Note(f"{highest}{where}, {end}", brief=highest)


def _last(of: Series) -> Note:
    return Note(f"last {number(of.finite[-1])}")
