"""What is drawn from a series: lines, bands and bars, and marks for what they cannot show."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.analysis.frame import RESUMED
from mlflow_ddpm.plotting.annotations import NAMED, Note, epochs_text, number
from mlflow_ddpm.plotting.axes import columns, ems
from mlflow_ddpm.plotting.downsampling import envelope, open_gaps

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from mlflow_ddpm.plotting.series import Series

    Floats = NDArray[np.float64]

__all__ = [
    "BARS",
    "EDGE",
    "at_edge",
    "band",
    "bars",
    "broken",
    "gathered",
    "line",
    "missing",
    "offscale",
    "resumed",
    "star",
]

EDGE = 0.025  # of the height of the axes, where marks of what cannot be drawn are put
_DOT_EMS = 2.0  # lines show each epoch as a dot while these are so far apart
_PALE = 0.45
BARS = "least full, most pale"  # how bars that share a column are drawn
_BAR_EMS = 0.35  # bars stand apart while they are so wide


def line(ax: Axes, of: Series, color: str, style: str = "-") -> None:
    """Draw a line that is open at gaps; an epoch between two gaps is a dot, and so is every one where there is room.

    Where epochs share a column of pixels, the line is their mean, and a pale stroke reaches from lowest to highest.
    """
    from matplotlib import rcParams

    of_columns = envelope(of.epoch, of.value, of.value, columns(ax))
    x, low, high, mean = open_gaps(of_columns.x, of_columns.width, of_columns.low, of_columns.high, of_columns.mean)
    if of_columns.width > 1:
        strokes = np.column_stack([low, high]).ravel()
        ax.plot(np.repeat(x, 2), strokes, color=color, alpha=_PALE, solid_capstyle="butt", gid="range")
    ax.plot(x, mean, style, color=color, gid="line")
    dots = _alone(mean) if len(of.epoch) * _DOT_EMS > ems(ax) else np.isfinite(mean)
    floor, ceiling = ax.get_ylim()
    dots &= (mean >= floor) & (mean <= ceiling)  # those at the very edge are drawn whole, those beyond it not at all
    size = rcParams["lines.markersize"]
    ax.plot(x[dots], mean[dots], "o", color=color, markersize=size, clip_on=False, gid="dots")


def gathered(ax: Axes, of: Series, how: str = "mean, range pale") -> Note | None:
    """Say how many epochs share a column of pixels, and how they are drawn there."""
    width = envelope(of.epoch, of.value, of.value, columns(ax)).width
    return (
        Note(f"{width:.0f} epochs to a column: {how}", brief=f"{width:.0f} epochs to a column") if width > 1 else None
    )


def band(ax: Axes, low: Series, high: Series, color: str) -> None:
    """Fill between two series, open at gaps; an epoch between two gaps is a vertical stroke."""
    from matplotlib import rcParams

    columns_of = envelope(low.epoch, low.value, high.value, columns(ax))
    x, bottom, top = open_gaps(columns_of.x, columns_of.width, columns_of.low, columns_of.high)
    ax.fill_between(x, bottom, top, color=color, alpha=0.28, linewidth=0, gid="band")
    alone = _alone(bottom + top)
    stroke = 1.4 * rcParams["lines.markersize"]
    ax.vlines(x[alone], bottom[alone], top[alone], color=color, alpha=0.28, linewidth=stroke, gid="band")


def bars(ax: Axes, of: Series, color: str, strength: float = 1.0) -> None:
    """Draw bars from zero; where several share a column, pale up to the extreme and full up to the least."""
    columns_of = envelope(of.epoch, np.abs(of.value), np.abs(of.value), columns(ax))
    x, width = columns_of.x, columns_of.width
    sign = -1.0 if (of.finite < 0).any() else 1.0
    if width > 1:
        _steps(ax, (x, width, sign * columns_of.high), color, strength / 2)
    _steps(ax, (x, width, sign * columns_of.low), color, strength)


def _steps(ax: Axes, shape: tuple[Floats, float, Floats], color: str, alpha: float) -> None:
    """Draw bars of one width; the room between two of them is a step without a value."""
    from matplotlib.patches import StepPatch

    x, width, height = shape
    first, last = ax.get_xlim()
    apart = ems(ax) * width / (last - first) > _BAR_EMS
    half = 0.4 * width if apart else 0.5 * width
    edges = np.column_stack([x - half, x + half]).ravel()
    heights = np.insert(height, np.arange(1, len(height)), np.nan)
    if not apart:  # neighbours share an edge, so that no seam of background shows between them
        touching = np.flatnonzero(np.diff(x) < 1.5 * width)
        edges = np.delete(edges, 2 * touching + 1)
        heights = np.delete(heights, 2 * touching + 1)
    # Not ax.stairs: it searches every edge for the limits, which are set already.
    ax.add_artist(StepPatch(heights, edges, baseline=0, fill=True, color=color, alpha=alpha, linewidth=0, gid="bars"))


def star(ax: Axes, epoch: float, value: float) -> None:
    """Mark the best epoch."""
    from matplotlib import rcParams

    size = 3 * rcParams["lines.markersize"]
    edge = rcParams["axes.facecolor"]
    ax.plot(
        [epoch], [value], "*", color="C1", markersize=size, markeredgecolor=edge, zorder=5, clip_on=False, gid="best"
    )


def broken(ax: Axes, of: Series) -> Note | None:
    """Mark at the bottom of the axes the epochs that were measured and are not finite, and say so."""
    if not len(of.broken):
        return None
    at_edge(ax, of.broken, EDGE, "x", "C3")
    return Note(f"\u00d7 {of.broken_as} ({epochs_text(of.broken)})", "C3", f"\u00d7 {len(of.broken):,} {of.broken_as}")


def offscale(ax: Axes, *drawn: Series) -> Note | None:
    """Mark at the edge of the axes the epochs that exceed the limits, and say how far they go."""
    from matplotlib import rcParams

    floor, ceiling = ax.get_ylim()
    above = np.unique(np.concatenate([s.epoch[s.value > ceiling] for s in drawn]))
    below = np.unique(np.concatenate([s.epoch[s.value < floor] for s in drawn]))
    color = str(rcParams["text.color"])
    at_edge(ax, above, 1 - EDGE, "^", color)
    at_edge(ax, below, EDGE, "v", color)
    full, brief = [], []
    for epochs, sign, way, extreme in ((above, "\u25b2", "up", np.nanmax), (below, "\u25bc", "down", np.nanmin)):
        if len(epochs):
            value = number(extreme([extreme(s.finite) for s in drawn if len(s.finite)]))
            full.append(f"{sign} {way} to {value} ({epochs_text(epochs)})")
            brief.append(f"{sign} to {value}")
    return Note("  ".join(full), color, "  ".join(brief)) if full else None


def missing(of: Series) -> Note | None:
    """Say which epochs have no row or, if none is missing, how many have no value though others have."""
    before = np.flatnonzero(np.diff(of.epoch) > 1)
    count = int(of.epoch[-1] - of.epoch[0]) + 1 - len(of.epoch)
    if count > NAMED:
        return Note(f"missing: {count:,} epochs")
    if count:
        holes = [np.arange(of.epoch[i] + 1, of.epoch[i + 1]) for i in before]
        return Note(f"missing: {epochs_text(np.concatenate(holes))}")
    unmeasured = len(of.epoch) - of.measured
    return Note(f"not measured in {unmeasured:,} of {len(of.epoch):,} epochs") if unmeasured else None


def resumed(history: pd.DataFrame) -> Note | None:
    """Say where the run was resumed; the epoch axis marks it."""
    epochs = np.array(history.attrs.get(RESUMED, ()), dtype=np.float64)
    if not len(epochs):
        return None
    times = f"{len(epochs)} times" if len(epochs) > NAMED else f"at {epochs_text(epochs)}"
    return Note(f"\u250a resumed {times}", brief="\u250a resumed")


def _alone(value: Floats) -> NDArray[np.bool_]:
    """Tell which values have no number on either side, so that no line reaches them."""
    there = np.concatenate([[False], np.isfinite(value), [False]])
    alone: NDArray[np.bool_] = there[1:-1] & ~there[:-2] & ~there[2:]
    return alone


def at_edge(ax: Axes, epoch: Floats, height: float, marker: str, color: str) -> None:
    """Put marks on the edge of the axes, at most one to three columns of pixels: more could not be told apart."""
    from matplotlib import rcParams

    if not len(epoch):
        return
    first, last = ax.get_xlim()
    column = np.floor((epoch - first) / (last - first) * columns(ax) / 3)
    shown = epoch[np.unique(column, return_index=True)[1]]
    size = 1.2 * rcParams["lines.markersize"]
    where = ax.get_xaxis_transform()
    ax.plot(shown, np.full(len(shown), height), marker, color=color, markersize=size, transform=where,
            markeredgewidth=size / 4, clip_on=False, zorder=6, gid="edge")  # fmt: skip
