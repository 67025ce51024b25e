"""Limits, ticks and labels of axes: whole epochs below, and beside them values whose labels stay short."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.plotting.series import Floats, Series
from mlflow_ddpm.plotting.text import epochs_text, number
from mlflow_ddpm.plotting.themes import setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MIN_ROOM = 4.0  # rows that the axes have room for, so that one or two do not fill them
_FLAT = 1e-3  # a series that varies by less than this part of its size is drawn as the constant it is
SPIKE_RATIO = 4.0  # a spike is this many times higher than all that is not a spike
_PLAIN_FROM, _PLAIN_TO = 1e-3, 1e5  # outside, tick labels are written with a power of ten
_MANY_DECADES = 2.5  # a log axis of more decades than this has labels at whole decades alone
_FEW = 8  # fewer values than this have no spikes: nothing is known of what is usual
_MIN_TICKS = 3
_WIDEST = 7  # letters of a tick's label; more would push the axis' label off the picture


def pixel_columns(ax: Axes) -> int:
    """Return how many columns of two pixels the axes have."""
    return max(16, int(ax.bbox.width) // 2)


def width_in_em(ax: Axes) -> float:
    """Return the width of the axes in the size of their letters, which is what text has to fit into."""
    return float(ax.bbox.width / ax.figure.dpi * 72 / setting("font.size"))


def epoch_axis(ax: Axes, first: float, last: float, *, label: str, spacing: float = 1.0) -> None:
    """Span all rows, measured or not, and tick whole numbers only."""
    pad = max(0.6 * spacing, 0.015 * (last - first), (_MIN_ROOM * spacing - (last - first)) / 2)
    ax.set_xlim(first - pad, last + pad)
    epoch_ticks(ax, first, last)
    ax.set_xlabel(label)


def epoch_ticks(ax: Axes, first: float, last: float) -> None:
    """Tick whole epochs at round numbers, as many as the axes' present limits leave room for."""
    from matplotlib.ticker import MaxNLocator

    left, right = ax.get_xlim()
    room = width_in_em(ax) * min(1.0, (last - first) / (right - left) + 0.05)
    label = max(3.0, 0.55 * len(f"{last:,.0f}") + 1.2)  # its width with a gap, in em
    bins = max(1, int(room / label))
    ticks = MaxNLocator(bins, steps=[1, 2, 5, 10], integer=True).tick_values(first, last) if last > first else []
    ticks = [tick for tick in ticks if first <= tick <= last] or [first]
    if len(ticks) > 1:  # the locator gives three at least, which narrow axes may have no room for
        distance = width_in_em(ax) * (ticks[1] - ticks[0]) / (right - left)
        ticks = ticks[:: max(1, math.ceil((label - 1) / distance))]
    ax.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])


def linear_axis(ax: Axes, label: str, *drawn: Floats, spikes: float = 0.02, always_include: float = math.nan) -> None:
    """Fit the axis to what is drawn (finite values), except that a share of ``spikes`` may not dwarf all the rest.

    Values of which zero is a natural neighbour are shown from zero; the value to ``always_include`` is shown in any
    case. :func:`mlflow_ddpm.plotting.undrawable.mark_offscale` marks what exceeds the limits.
    """
    values = np.concatenate(drawn)
    limit = spike_limit(values, spikes)
    low = float(np.fmin(max(values.min(), -limit), always_include))
    high = float(np.fmax(min(values.max(), limit), always_include))
    if 0 < low <= high / 2:
        low = 0.0
    if high - low <= _FLAT * max(abs(high), abs(low)):
        around = 0.1 * max(abs(high), abs(low))
        low, high = (low - around, high + around) if around else (0.0, 1.0)
    margin = 0.06 * (high - low)
    ax.set_ylim(low - (margin if low else 0.0), high + (margin if high else 0.0))
    _value_label(ax, label + _round_ticks(ax, 6))


def spike_limit(values: Floats, max_outlier_share: float) -> float:
    """Return the size up to which values are shown: all, unless a share of outliers dwarfs the rest."""
    sizes = np.sort(np.abs(values))
    spare = max(1, int(max_outlier_share * len(sizes)))
    if len(sizes) < _FEW or not 0 < SPIKE_RATIO * sizes[-1 - spare] < sizes[-1]:
        return float(sizes[-1])
    return float(sizes[sizes <= 2 * sizes[-1 - spare]][-1])


def log_axis(ax: Axes, label: str, *drawn: Floats) -> None:
    """Fit a logarithmic axis to the values above zero; there must be one."""
    from matplotlib.ticker import LogLocator, NullFormatter

    values = np.concatenate(drawn)
    low, high = np.log10(values[values > 0].min()), np.log10(values.max())
    margin = max(0.05, 0.06 * (high - low))
    ax.set_yscale("log")
    ax.set_ylim(10.0 ** max(low - margin, -305), 10.0 ** min(high + margin, 305))
    ticks = _log_ticks(ax, high - low)
    if len(ticks) >= _MIN_TICKS:
        ax.set_yticks(ticks, [number(tick) for tick in ticks])
    else:
        label += _round_ticks(ax, 5)
    ax.yaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=40))
    ax.yaxis.set_minor_formatter(NullFormatter())
    _value_label(ax, label)


def _log_ticks(ax: Axes, decades: float) -> Floats:
    """Return whole decades or, of few decades, the round numbers of which three or more lie within the limits."""
    from matplotlib.ticker import LogLocator

    if decades > _MANY_DECADES:
        return _inside(ax, LogLocator(numticks=8).tick_values(*ax.get_ylim()))
    low, high = np.log10(ax.get_ylim())
    powers = 10.0 ** np.arange(math.floor(low), math.ceil(high) + 1)
    few, more = (_inside(ax, np.outer(powers, steps).ravel().tolist()) for steps in ((1, 2, 5), (1, 2, 3, 4, 6, 8)))
    return few if len(few) >= _MIN_TICKS else more


def _inside(ax: Axes, offered: Sequence[float]) -> Floats:
    (low, high), ticks = ax.get_ylim(), np.asarray(offered)
    return ticks[(ticks >= low) & (ticks <= high)]


def _round_ticks(ax: Axes, bins: int) -> str:
    """Tick round numbers with as many decimals as their step needs; return what the axis' label has to add.

    Powers of ten are written beside the numbers or, where the numbers would be too wide, once in the label.
    """
    from matplotlib.ticker import MaxNLocator

    ticks = _inside(ax, MaxNLocator(bins, steps=[1, 2, 2.5, 5, 10]).tick_values(*ax.get_ylim()))
    size = max(np.abs(ticks))
    power = math.floor(math.log10(size)) if size else 0
    is_plain = _PLAIN_FROM <= size < _PLAIN_TO or not size
    texts = _aligned(ticks, 0, "") if is_plain else _aligned(ticks, power, f"e{power}")
    is_wide = max(map(len, texts)) > _WIDEST
    ax.set_yticks(ticks, _aligned(ticks, power, "") if is_wide else texts)
    return f", in\u00a01e{power}".replace("-", "\u2212") if is_wide and power else ""


def _aligned(ticks: Floats, power: int, suffix: str) -> list[str]:
    """Return labels in units of a power of ten, all with as many decimals as the step needs."""
    step = (ticks[1] - ticks[0]) / 10.0**power if len(ticks) > 1 else 1.0
    decimals = next((d for d in range(12) if math.isclose(round(step, d), step, rel_tol=1e-6)), 12)
    texts = [f"{tick / 10.0**power:,.{decimals}f}{suffix}" if tick else "0" for tick in ticks]
    return [text.replace("-", "\u2212") for text in texts]


def _value_label(ax: Axes, label: str) -> None:
    """Write the label of the value axis; in two lines, before its unit or its last word, if the axes are too low."""
    written = ax.set_ylabel(label)
    if written.get_window_extent().height > ax.bbox.height:
        head, bracket, unit = label.rpartition(" (") if " (" in label else label.rpartition(" ")
        written.set_text(f"{head}\n{bracket.strip()}{unit}")


def show_placeholder(ax: Axes, reason: str) -> None:
    """Write in the middle of empty axes why there is nothing to see."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.text(
        0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color=setting("axes.labelcolor"),
        linespacing=1.6, gid="empty",
    )  # fmt: skip


def show_missing_reason(ax: Axes, drawn: Series, reason: str) -> bool:
    """Return whether a series has no number at all; if so, the axes show whether and why it was never measured."""
    if len(drawn.finite):
        return False
    if not len(drawn.epoch):
        show_placeholder(ax, f"no {drawn.noun}s yet")
    elif not drawn.measured:
        show_placeholder(ax, f"not measured:\n{reason}")
    else:
        epochs = epochs_text(drawn, drawn.nonfinite_epochs)
        show_placeholder(ax, f"measured, but never finite:\n{drawn.nonfinite_kind} in {epochs}")
    return True
