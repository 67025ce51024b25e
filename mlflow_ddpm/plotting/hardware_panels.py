"""Panels of what a run costs: throughput, time and GPU memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.core.extra_metrics import axis_label, metric
from mlflow_ddpm.plotting.annotations import Note, duration, end_labels, note, nothing_to_draw, number
from mlflow_ddpm.plotting.axes import epoch_axis, epoch_ticks, linear_axis
from mlflow_ddpm.plotting.marks import BARS, bars, broken, gathered, line, missing, offscale, resumed
from mlflow_ddpm.plotting.series import Series, rate_name, series

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["epoch_timing", "gpu_memory", "throughput"]

_MEMORY = (("gpu_peak_mb", "C4", "-"), ("gpu_reserved_mb", "C5", "--"), ("gpu_allocated_mb", "C0", "-."))
_STRENGTH = 0.7  # of the colour of bars that fill the axes


def throughput(ax: Axes, history: pd.DataFrame) -> None:
    """Draw samples per second as bars; where batch sizes are unknown, batches per second, and say so."""
    name, notes = rate_name(history), []
    if name == "batches_per_sec":
        notes = [Note("batch sizes unknown: no samples/s", "C4", "no batch sizes")]
    of = series(history, name)
    if nothing_to_draw(ax, of, "no batch was counted"):
        return
    _bars_with_median(ax, history, name, of, notes)


def epoch_timing(ax: Axes, history: pd.DataFrame) -> None:
    """Draw the wall-clock time of each epoch as bars."""
    of = series(history, "epoch_time_sec")
    if nothing_to_draw(ax, of, "no epoch was timed"):
        return
    _bars_with_median(ax, history, "epoch_time_sec", of, [_total(of, series(history, "cumulative_time_sec"))])


def gpu_memory(ax: Axes, history: pd.DataFrame) -> None:
    """Draw peak, reserved and allocated CUDA memory as lines, each named at its end."""
    drawn = [(series(history, name), name, color, style) for name, color, style in _MEMORY]
    drawn = [d for d in drawn if d[0].measured] or drawn[:1]
    peak = drawn[0][0]
    if nothing_to_draw(ax, peak, "no CUDA device"):
        return
    epoch_axis(ax, history)
    linear_axis(ax, f"GPU memory ({metric('gpu_peak_mb').unit})", *(of.finite for of, *_ in drawn))
    for of, _, color, style in drawn:
        line(ax, of, color, style)
    ends = [
        (of.finite[-1], metric(name).label.removeprefix("GPU "), color)
        for of, name, color, _ in drawn
        if len(of.finite)
    ]
    end_labels(ax, float(peak.epoch[-1]), ends)
    epoch_ticks(ax, float(peak.epoch[0]), float(peak.epoch[-1]))
    note(
        ax,
        [
            _highest(peak, series(history, "gpu_reserved_mb")),
            broken(ax, peak),
            offscale(ax, *(of for of, *_ in drawn)),
            missing(peak),
            resumed(history),
            gathered(ax, peak),
        ],
    )


def _bars_with_median(ax: Axes, history: pd.DataFrame, name: str, of: Series, notes: list[Note]) -> None:
    from matplotlib import rcParams

    median = float(np.median(of.finite))
    epoch_axis(ax, history)
    linear_axis(ax, axis_label(name), of.finite, np.zeros(1))
    bars(ax, of, "C0", _STRENGTH)
    thin = rcParams["lines.linewidth"] / 2
    ax.axhline(median, color=rcParams["text.color"], linestyle="--", linewidth=thin, gid="median")
    typical = Note(f"\u2013 \u2013 median {number(median)} {metric(name).unit}")
    note(ax, [typical, *notes, broken(ax, of), offscale(ax, of), missing(of), resumed(history), gathered(ax, of, BARS)])


def _total(of: Series, cumulative: Series) -> Note:
    """Say the run's whole time, which counts epochs without a row too where it was measured."""
    return Note(f"total {duration(cumulative.finite[-1] if len(cumulative.finite) else of.finite.sum())}")


def _highest(peak: Series, reserved: Series) -> Note:
    top = int(np.nanargmax(peak.value))
    brief = f"peak {number(peak.value[top])} MiB"
    text = f"{brief} at epoch {peak.epoch[top]:.0f}"
    return Note(
        f"{text}, reserved up to {number(reserved.finite.max())}" if len(reserved.finite) else text, brief=brief
    )
