"""Panels of the loss: its course, its spread within an epoch, and its change from epoch to epoch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.core.extra_metrics import axis_label
from mlflow_ddpm.plotting.annotations import Note, empty, epochs_text, note, nothing_to_draw, number
from mlflow_ddpm.plotting.axes import epoch_axis, linear_axis, log_axis
from mlflow_ddpm.plotting.callout import callout
from mlflow_ddpm.plotting.marks import (
    BARS,
    EDGE,
    at_edge,
    band,
    bars,
    broken,
    gathered,
    line,
    missing,
    offscale,
    resumed,
    star,
)
from mlflow_ddpm.plotting.series import Series, around, changes, series

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["loss_derivative", "loss_distribution", "loss_linear", "loss_log"]

_WHY = "log_batch was never called"
_EARLY = 0.1  # of the epochs, how many may run off a linear scale: a loss falls by orders of magnitude at first


def loss_linear(ax: Axes, history: pd.DataFrame) -> None:
    """Draw each epoch's mean loss within its batches' minimum and maximum, and mark the best epoch."""
    mean, low, high = (series(history, name) for name in ("loss_mean", "loss_min", "loss_max"))
    if nothing_to_draw(ax, mean, _WHY):
        return
    epoch_axis(ax, history)
    best = float(mean.finite.min())
    linear_axis(ax, axis_label("loss_mean"), mean.finite, low.finite, high.finite, spikes=_EARLY, keep=best)
    _course(ax, mean, low, high)
    note(
        ax,
        [
            broken(ax, mean),
            offscale(ax, mean, low, high),
            *_LEGEND,
            missing(mean),
            resumed(history),
            gathered(ax, mean),
        ],
    )


def loss_log(ax: Axes, history: pd.DataFrame) -> None:
    """Draw the same on a logarithmic axis; what it cannot show, zero and below, is marked and said."""
    mean, low, high = (series(history, name) for name in ("loss_mean", "loss_min", "loss_max"))
    if nothing_to_draw(ax, mean, _WHY):
        return
    if not (mean.finite > 0).any():
        empty(ax, "no loss above zero:\na log axis cannot show it")
        return
    epoch_axis(ax, history)
    log_axis(ax, axis_label("loss_mean"), mean.finite, low.finite, high.finite)
    unseen = _below_zero(ax, mean, low)
    above = replace(mean, value=np.where(mean.value > 0, mean.value, np.nan))
    _course(ax, above, replace(low, value=np.maximum(low.value, ax.get_ylim()[0])), high)
    note(ax, [broken(ax, mean), unseen, *_LEGEND, missing(mean), resumed(history), gathered(ax, mean)])


def loss_distribution(ax: Axes, history: pd.DataFrame) -> None:
    """Draw each epoch's mean and median loss, and one standard deviation to either side of the mean."""
    mean, median = (series(history, name) for name in ("loss_mean", "loss_median"))
    if nothing_to_draw(ax, mean, _WHY):
        return
    low, high = around(history)
    epoch_axis(ax, history)
    linear_axis(ax, axis_label("loss_mean"), mean.finite, median.finite, low.finite, high.finite, spikes=_EARLY)
    band(ax, low, high, "C0")
    line(ax, median, "C4", "--")
    line(ax, mean, "C0")
    legend = [
        Note("\u2501 mean", "C0"),
        Note("\u2013 \u2013 median", "C4"),
        Note("\u2588 mean \u00b1 1\u03c3", "C0", "\u2588 \u00b1 1\u03c3"),
    ]
    note(
        ax,
        [broken(ax, mean), offscale(ax, mean, low, high), *legend, missing(mean), resumed(history), gathered(ax, mean)],
    )


def loss_derivative(ax: Axes, history: pd.DataFrame) -> None:
    """Draw each change of the mean loss from the epoch before: improving below zero, worsening above."""
    mean = series(history, "loss_mean")
    if nothing_to_draw(ax, mean, _WHY):
        return
    change = changes(mean)
    if not change.measured:
        empty(ax, "no change to show yet:\nit takes two epochs in a row")
        return
    epoch_axis(ax, history)
    linear_axis(ax, f"Change of {axis_label('loss_mean').lower()}", change.finite, np.zeros(1), spikes=_EARLY)
    better, worse = (replace(change, value=np.where(sign * change.value > 0, change.value, np.nan)) for sign in (-1, 1))
    bars(ax, better, "C2")
    bars(ax, worse, "C3")
    ax.axhline(0, color=ax.spines["bottom"].get_edgecolor(), linewidth=ax.spines["bottom"].get_linewidth())
    unchanged = change.measured - len(better.finite) - len(worse.finite)
    legend = [
        Note(f"\u2588 {len(better.finite):,} improving", "C2", "\u2588 better"),
        Note(f"\u2588 {len(worse.finite):,} worsening", "C3", "\u2588 worse"),
        Note(f"{unchanged:,} unchanged") if unchanged else None,
    ]
    note(
        ax, [broken(ax, mean), offscale(ax, change), *legend, missing(mean), resumed(history), gathered(ax, mean, BARS)]
    )


_LEGEND = [Note("\u2501 mean", "C0"), Note("\u2588 batch min\u2013max", "C0", "\u2588 min\u2013max")]


def _course(ax: Axes, mean: Series, low: Series, high: Series) -> None:
    """Draw band, line and star, on axes whose limits are set."""
    band(ax, low, high, "C0")
    line(ax, mean, "C0")
    best = int(np.nanargmin(mean.value))
    at = (float(mean.epoch[best]), float(mean.value[best]))
    star(ax, *at)
    callout(ax, (f"best {number(at[1])}", f"at epoch {at[0]:.0f}"), at, (mean, low, high))


def _below_zero(ax: Axes, mean: Series, low: Series) -> Note | None:
    """Mark the epochs whose mean, or else whose minimum, a log axis cannot show."""
    for of, what in ((mean, "loss"), (low, "minimum")):
        epochs = of.epoch[of.value <= 0]
        if len(epochs):
            at_edge(ax, epochs, EDGE, "v", "C3")
            return Note(f"\u25bc {what} not above zero: {epochs_text(epochs)}", "C3")
    return None
