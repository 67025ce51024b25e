"""Text beside the point it speaks of, put where it covers least of what is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.plotting.annotations import muted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import BboxBase
    from numpy.typing import NDArray

    from mlflow_ddpm.plotting.series import Series

    Floats = NDArray[np.float64]
    _Busy = tuple[Floats, tuple[Floats, Floats], tuple[Floats, Floats]]

__all__ = ["callout"]

# Where a callout may go, in its own widths and the heights of a row from the point, and what makes a place dear: to be
# far from the point, and the share of its width that covers line or band. The cheapest is taken, the first of equals.
_AROUND = [(across, up) for up in (2, -2, 3.5, -3.5, 5, 7, 9, 11, -5, -7) for across in (0, -0.4, 0.4, -0.8, 0.8)]
_FAR, _ON_BAND, _ON_LINE, _TOUCHES, _OUTSIDE = 0.03, 0.15, 1.0, 0.5, 10.0
_RIM = 0.06  # of the height, at the lower and upper edge, where marks may stand
_STACKED = 0.08  # one row reads better than two, if neither covers more
_DOT = 0.2  # what the mark of a single epoch takes, in epochs


def callout(ax: Axes, words: Sequence[str], at: tuple[float, float], drawn: tuple[Series, Series, Series]) -> None:
    """Write words near a point, inside the axes, where they cover least of a line and its band (low, high).

    They stand in one row or, where that would cover more, in one each.
    """
    written = _written(ax, at)
    point = ax.transData.transform(at)
    busy = _occupied(ax, drawn)
    found = []
    for text, extra in ((" ".join(words), 0.0), ("\n".join(words), _STACKED)):
        written.set_text(text)
        size = written.get_window_extent()
        row = size.height / (1 + text.count("\n"))
        places = [_place(ax.bbox, point, size, row, shift) for shift in _AROUND]
        far = [_FAR * (abs(up) + 3 * abs(across)) for across, up in _AROUND]
        prices = [_price(ax.bbox, box, row, busy) + distance for box, distance in zip(places, far, strict=True)]
        best = int(np.argmin(prices))
        found.append((prices[best] + extra, text, places[best]))
    _, text, box = min(found, key=lambda f: f[0])
    points_per_pixel = 72 / ax.figure.dpi  # a PDF has pixels of its own
    written.set_text(text)
    written.xyann = (
        ((box.x0 + box.x1) / 2 - point[0]) * points_per_pixel,
        ((box.y0 + box.y1) / 2 - point[1]) * points_per_pixel,
    )


def _written(ax: Axes, at: tuple[float, float]) -> Annotation:
    from matplotlib import rcParams
    from matplotlib.patheffects import withStroke

    return ax.annotate(
        "", at, (0, 0), textcoords="offset points", ha="center", va="center", gid="callout",
        fontweight="bold", fontsize=rcParams["legend.fontsize"],
        arrowprops={"arrowstyle": "-", "color": muted(), "linewidth": rcParams["axes.linewidth"], "shrinkB": 5},
        path_effects=[withStroke(linewidth=2.5, foreground=rcParams["axes.facecolor"])],  # for a line it must cross
    )  # fmt: skip


def _place(axes: BboxBase, point: Floats, size: BboxBase, row: float, shift: tuple[float, float]) -> BboxBase:
    """Return the box of a callout shifted from the point, but not beyond the sides of the axes."""
    x = np.clip(point[0] + shift[0] * size.width, axes.x0 + size.width / 2, axes.x1 - size.width / 2)
    more = np.sign(shift[1]) * (size.height - row) / 2  # a second row grows away from the point
    left, bottom = x - size.width / 2, point[1] + shift[1] * row + more - size.height / 2
    return size.translated(left - size.x0, bottom - size.y0)


def _price(axes: BboxBase, box: BboxBase, row: float, busy: _Busy) -> float:
    x, line, band = busy
    wide = box.padded(row / 4)
    under = (x >= wide.x0) & (x <= wide.x1)
    if not under.any():
        return _OUTSIDE
    on_line, on_band = ((low[under] <= wide.y1) & (high[under] >= wide.y0) for low, high in (line, band))
    outside = box.y0 < axes.y0 + _RIM * axes.height or box.y1 > axes.y1 - _RIM * axes.height
    return float(_TOUCHES * on_line.any() + _ON_LINE * on_line.mean() + _ON_BAND * on_band.mean() + _OUTSIDE * outside)


def _occupied(ax: Axes, drawn: Iterable[Series]) -> _Busy:
    """Return in pixels, for every third column, x and from where to where line and band reach; NaN where nothing is."""
    x = np.arange(ax.bbox.x0, ax.bbox.x1, 3.0)
    at = ax.transData.inverted().transform(np.column_stack([x, np.full(len(x), ax.bbox.y0)]))[:, 0]
    heights = []
    for of in drawn:
        near = np.clip(at, of.epoch[0], of.epoch[-1])
        value = np.interp(near, of.epoch, np.clip(of.value, *ax.get_ylim()))
        value[np.abs(at - near) > _DOT] = np.nan
        heights.append(ax.transData.transform(np.column_stack([at, value]))[:, 1])
    line, low, high = heights
    return x, _with_neighbours(line, line), _with_neighbours(low, high)


def _with_neighbours(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Reach over the columns on both sides, too: a steep line passes between two of them."""
    lows = [low, np.append(low[1:], np.nan), np.append(np.nan, low[:-1])]
    highs = [high, np.append(high[1:], np.nan), np.append(np.nan, high[:-1])]
    return np.fmin.reduce(lows), np.fmax.reduce(highs)
