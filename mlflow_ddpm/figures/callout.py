"""Text beside the point it speaks of, put where it covers least of what is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.figures.words import muted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.transforms import BboxBase
    from numpy.typing import NDArray

    from mlflow_ddpm.figures.series import Series

    Floats = NDArray[np.float64]

__all__ = ["callout"]

# Where a callout may go, in its own widths and heights from the point, and what makes a place dear: to be far from the
# point, and the share of its width that covers line or band. The cheapest is taken, the first of equals.
_AROUND = [(across, up) for up in (2, -2, 3.5, -3.5, 5, 7, 9, 11, -5, -7) for across in (0, -0.4, 0.4, -0.8, 0.8)]
_FAR, _ON_BAND, _ON_LINE, _TOUCHES, _OUTSIDE = 0.03, 0.15, 1.0, 0.5, 10.0
_RIM = 0.06  # of the height, at the lower and upper edge, where marks may stand
_DOT = 0.2  # what the mark of a single epoch takes, in epochs


def callout(ax: Axes, text: str, at: tuple[float, float], drawn: tuple[Series, Series, Series]) -> None:
    """Write text near a point, inside the axes, where it covers least of a line and its band (low, high)."""
    from matplotlib import rcParams
    from matplotlib.patheffects import withStroke

    written = ax.annotate(
        text, at, (0, 0), textcoords="offset pixels", ha="center", va="center", gid="callout",
        fontweight="bold", fontsize=rcParams["legend.fontsize"],
        arrowprops={"arrowstyle": "-", "color": muted(), "linewidth": rcParams["axes.linewidth"], "shrinkB": 5},
        path_effects=[withStroke(linewidth=2.5, foreground=rcParams["axes.facecolor"])],  # for a line it must cross
    )  # fmt: skip
    size = written.get_window_extent()
    x, y = ax.transData.transform(at)
    busy = _occupied(ax, drawn)
    places = [_place(ax.bbox, (x, y), size, shift) for shift in _AROUND]
    far = [_FAR * (abs(up) + 3 * abs(across)) for across, up in _AROUND]
    prices = [_price(ax.bbox, box, busy) + extra for box, extra in zip(places, far, strict=True)]
    box = places[int(np.argmin(prices))]
    written.xyann = ((box.x0 + box.x1) / 2 - x, (box.y0 + box.y1) / 2 - y)


def _place(axes: BboxBase, point: tuple[float, float], size: BboxBase, shift: tuple[float, float]) -> BboxBase:
    """Return the box of a callout shifted from the point, but not beyond the sides of the axes."""
    x = np.clip(point[0] + shift[0] * size.width, axes.x0 + size.width / 2, axes.x1 - size.width / 2)
    left, bottom = x - size.width / 2, point[1] + shift[1] * size.height - size.height / 2
    return size.translated(left - size.x0, bottom - size.y0)


def _price(axes: BboxBase, box: BboxBase, busy: tuple[Floats, Floats, Floats, Floats]) -> float:
    x, line, low, high = busy
    wide = box.padded(box.height / 4)
    under = (x >= wide.x0) & (x <= wide.x1)
    if not under.any():
        return _OUTSIDE
    on_line = (line[under] <= wide.y1) & (line[under] >= wide.y0)
    on_band = (low[under] <= wide.y1) & (high[under] >= wide.y0)
    outside = box.y0 < axes.y0 + _RIM * axes.height or box.y1 > axes.y1 - _RIM * axes.height
    return float(_TOUCHES * on_line.any() + _ON_LINE * on_line.mean() + _ON_BAND * on_band.mean() + _OUTSIDE * outside)


def _occupied(ax: Axes, drawn: Iterable[Series]) -> tuple[Floats, Floats, Floats, Floats]:
    """Return in pixels, for every third column, x and the heights of what is drawn there; NaN where nothing is."""
    x = np.arange(ax.bbox.x0, ax.bbox.x1, 3.0)
    at = ax.transData.inverted().transform(np.column_stack([x, np.full(len(x), ax.bbox.y0)]))[:, 0]
    heights = []
    for of in drawn:
        near = np.clip(at, of.epoch[0], of.epoch[-1])
        value = np.interp(near, of.epoch, np.clip(of.value, *ax.get_ylim()))
        value[np.abs(at - near) > _DOT] = np.nan
        heights.append(ax.transData.transform(np.column_stack([at, value]))[:, 1])
    return x, heights[0], heights[1], heights[2]
