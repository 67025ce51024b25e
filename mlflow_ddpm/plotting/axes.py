"""Limits, ticks and labels of axes: whole epochs below, and beside them values whose labels stay short."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.analysis.frame import RESUMED, numbers
from mlflow_ddpm.core.extra_metrics import axis_label
from mlflow_ddpm.plotting.annotations import number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["columns", "ems", "epoch_axis", "epoch_ticks", "linear_axis", "log_axis", "spike_limit"]

_LEAST = 4  # the epochs that the axes have room for, so that one or two do not fill them
_FLAT = 1e-3  # a series that varies by less than this part of its size is drawn as the constant it is
_DWARFS = 4.0  # a spike is this many times higher than all that is not a spike
_PLAIN_FROM, _PLAIN_TO = 1e-3, 1e5  # outside, tick labels are written with a power of ten
_MANY = 2.5  # a log axis of more decades than this is ticked at whole decades
_FEW = 8  # fewer values than this have no spikes: nothing is known of what is usual


def columns(ax: Axes) -> int:
    """Return how many columns of two pixels the axes have."""
    return max(16, int(ax.bbox.width) // 2)


def ems(ax: Axes) -> float:
    """Return the width of the axes in the size of their letters, which is what text has to fit into."""
    from matplotlib import rcParams

    return float(ax.bbox.width / ax.figure.dpi * 72 / rcParams["font.size"])


def epoch_axis(ax: Axes, history: pd.DataFrame) -> None:
    """Span all epochs of the history, measured or not, tick whole epochs only, and mark where the run was resumed."""
    from matplotlib import rcParams

    epoch = numbers(history, "epoch")
    first, last = epoch[0], epoch[-1]
    pad = max(0.6, 0.015 * (last - first), (_LEAST - (last - first)) / 2)
    ax.set_xlim(first - pad, last + pad)
    epoch_ticks(ax, first, last)
    ax.set_xlabel(axis_label("epoch"))
    for resumed in history.attrs.get(RESUMED, ()):
        thin, color = rcParams["lines.linewidth"] / 2, rcParams["axes.labelcolor"]
        ax.axvline(resumed - 0.5, color=color, linestyle=":", linewidth=thin, zorder=0.9, gid="resumed")


def epoch_ticks(ax: Axes, first: float, last: float) -> None:
    """Tick whole epochs at round numbers, as many as the axes' present limits leave room for."""
    left, right = ax.get_xlim()
    room = ems(ax) * min(1.0, (last - first) / (right - left) + 0.05) / max(3.0, 0.55 * len(f"{last:,.0f}") + 1.2)
    step = _round_step(max(1.0, (last - first) / max(1.0, room)))
    ticks = np.arange(math.ceil(first / step), math.floor(last / step) + 1) * step
    ax.set_xticks(ticks if len(ticks) else [first])
    ax.set_xticklabels([f"{tick:,.0f}" for tick in ax.get_xticks()])


def linear_axis(ax: Axes, label: str, *drawn: Floats, spikes: float = 0.02, keep: float = math.nan) -> None:
    """Fit the axis to what is drawn (finite values), except that a share of ``spikes`` may not dwarf all the rest.

    Values of which zero is a natural neighbour are shown from zero; the value to ``keep`` is shown in any case. What
    exceeds the limits is for :func:`mlflow_ddpm.plotting.marks.offscale` to say.
    """
    values = np.concatenate(drawn)
    limit = spike_limit(values, spikes)
    low = float(np.fmin(max(values.min(), -limit), keep))
    high = float(np.fmax(min(values.max(), limit), keep))
    if 0 < low <= high / 2:
        low = 0.0
    if high - low <= _FLAT * max(abs(high), abs(low)):
        around = 0.1 * max(abs(high), abs(low)) or 1.0
        low, high = low - around, high + around
    margin = 0.06 * (high - low)
    ax.set_ylim(low - (margin if low else 0.0), high + (margin if high else 0.0))
    ticks = _linear_ticks(*ax.get_ylim())
    ax.set_yticks(ticks, _aligned(ticks))
    ax.set_ylabel(label)


def spike_limit(values: Floats, share: float) -> float:
    """Return the size up to which values are shown: all, unless a share of at most ``share`` dwarfs the rest."""
    sizes = np.sort(np.abs(values))
    spare = max(1, int(share * len(sizes)))
    if len(sizes) < _FEW or not 0 < _DWARFS * sizes[-1 - spare] < sizes[-1]:
        return float(sizes[-1])
    return float(sizes[sizes <= 2 * sizes[-1 - spare]][-1])


def log_axis(ax: Axes, label: str, *drawn: Floats) -> None:
    """Fit a logarithmic axis to the values above zero; there must be one."""
    values = np.concatenate(drawn)
    low, high = np.log10(values[values > 0].min()), np.log10(values.max())
    margin = max(0.05, 0.06 * (high - low))
    ax.set_yscale("log")
    ax.set_ylim(10.0 ** max(low - margin, -305), 10.0 ** min(high + margin, 305))
    ax.minorticks_off()
    ax.set_yticks(*_log_ticks(*ax.get_ylim()))
    ax.set_ylabel(label)


def _linear_ticks(low: float, high: float) -> Floats:
    """Return four to six round numbers within the limits."""
    step = _round_step((high - low) / 5.5)
    return np.arange(math.ceil(low / step), math.floor(high / step) + 1, dtype=np.float64) * step


def _log_ticks(low: float, high: float) -> tuple[Floats, list[str]]:
    """Return decades, or 1-2-5 where there are few, or round numbers where not even two of these fit."""
    decades = math.log10(high / low)
    exponents = np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if decades > _MANY:
        exponents = exponents[exponents % max(1, round(decades / 6)) == 0]
    steps = np.array([1.0]) if decades > _MANY else np.array([1.0, 2.0, 5.0])
    ticks = np.outer(10.0**exponents, steps).ravel()
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    if len(ticks) > 1 + 1:
        return ticks, [number(tick) for tick in ticks]
    ticks = _linear_ticks(low, high)
    return ticks, _aligned(ticks)


def _round_step(at_least: float) -> float:
    """Return the next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= at_least * (1 - 1e-9))


def _aligned(ticks: Floats) -> list[str]:
    """Return labels with as many decimals as the step needs, all alike; powers of ten where those would be long."""
    size = max(np.abs(ticks))
    power = math.floor(math.log10(size)) if size else 0
    shift = 0 if _PLAIN_FROM <= size < _PLAIN_TO or not size else power
    step = (ticks[1] - ticks[0]) / 10.0**shift if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-6))
    suffix = f"e{shift}" if shift else ""
    texts = [f"{tick / 10.0**shift:,.{decimals}f}{suffix}" if tick else "0" for tick in ticks]
    return [text.replace("-", "\u2212") for text in texts]
