"""What is drawn from series: lines with their names, bands, bars and stars, none with more points than pixels.

The same functions draw one run and several. A :class:`Trace` is a series with its look; of several runs it bears the
run's name, which the notes then mention. Lines of one run may bear a name, too, for their ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlflow_ddpm.plotting.axes import pixel_columns, width_in_em
from mlflow_ddpm.plotting.notes import BAND_ALPHA, Note, text_color
from mlflow_ddpm.plotting.series import GAP, Flags, Floats, Series
from mlflow_ddpm.plotting.themes import setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

_DOT_EMS = 2.0  # lines show each row as a dot while these are so far apart
_BAR_EMS = 0.35  # bars stand apart while they are so wide
_FEW_BARS = 60  # bars that are drawn where those of all rows would be a solid block
_MIN_BAR = 0.012  # of the height of the axes: a lower bar could not be seen
_SAMPLE = (0.5, 1.9)  # from where to where the sample of a line beside its name reaches, in the size of letters


class Trace(NamedTuple):
    """A series and its look; the run's name of several runs in one picture, or the line's own of several lines."""

    series: Series
    color: str = "C0"
    style: str = "-"
    name: str = ""

    def mention(self, text: str) -> str:
        """Return the text after the run's name, where it has one."""
        return f"{self.name}, {text}" if self.name else text


class Envelope(NamedTuple):
    """Columns of equal width, left to right; a column without a row is left out, one without a number is NaN.

    A column keeps its lowest, highest and mean value, so that no spike is lost.
    """

    x: Floats  # the middle of each column, in epochs
    low: Floats
    high: Floats
    mean: Floats  # of what lies between low and high
    width: float  # in epochs; the usual spacing of the rows where every row has its own column
    rows: int  # to a column, about; 1 where every row has its own

    def with_gaps(self) -> Envelope:
        """Return the columns with a NaN wherever one is left out, so that nothing is drawn across the gap."""
        holes = np.flatnonzero(np.diff(self.x) > GAP * self.width) + 1
        x = np.insert(self.x, holes, self.x[holes] - self.width / 2)
        low, high, mean = (np.insert(values, holes, np.nan) for values in (self.low, self.high, self.mean))
        return Envelope(x, low, high, mean, self.width, self.rows)


def envelope(epoch: Floats, low: Floats, high: Floats, columns: int, spacing: float = 1.0) -> Envelope:
    """Gather the rows (sorted) into at most ``columns`` columns, if they are more than two to a column."""
    if len(epoch) <= 2 * columns:
        return Envelope(epoch, low, high, (low + high) / 2, spacing, 1)
    width = (epoch[-1] - epoch[0] + spacing) / columns
    column = np.floor((epoch - epoch[0]) / width)
    starts = np.flatnonzero(np.diff(column, prepend=-1.0))
    middle = epoch[0] - spacing / 2 + (column[starts] + 0.5) * width
    between = (low + high) / 2
    count = np.add.reduceat(np.isfinite(between), starts, dtype=np.float64)
    count[count == 0] = np.nan
    mean = np.add.reduceat(np.nan_to_num(between), starts) / count
    lows, highs = np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts)
    return Envelope(middle, lows, highs, mean, width, max(2, round(width / spacing)))


def line(ax: Axes, trace: Trace, *, dots: bool = True, columns: int = 0) -> None:
    """Draw a line that is open at gaps; a row between two gaps is a dot, and so is every one where there is room.

    Where rows share a column of pixels, or one of ``columns``, the line is their mean, in a band from their lowest to
    their highest value.
    """
    series = trace.series
    shape = _shape(ax, series, columns).with_gaps()
    if shape.rows > 1:
        _fill(ax, shape, trace.color)
    ax.plot(shape.x, shape.mean, trace.style, color=trace.color, gid="line")
    has_room = dots and len(series.epoch) * _DOT_EMS <= width_in_em(ax)
    shown = np.isfinite(shape.mean) if has_room else _alone(shape.mean)
    floor, ceiling = ax.get_ylim()
    shown &= (shape.mean >= floor) & (shape.mean <= ceiling)  # those at the very edge are whole, those beyond left out
    size = setting("lines.markersize")
    ax.plot(shape.x[shown], shape.mean[shown], "o", color=trace.color, markersize=size, clip_on=False, gid="dots")


def band(ax: Axes, low: Series, high: Series, color: str) -> None:
    """Fill between two series, open at gaps; a row between two gaps is a vertical stroke."""
    shape = envelope(low.epoch, low.value, high.value, pixel_columns(ax), low.spacing)
    _fill(ax, shape.with_gaps(), color, gid="band")


def _shape(ax: Axes, series: Series, columns: int = 0) -> Envelope:
    return envelope(series.epoch, series.value, series.value, columns or pixel_columns(ax), series.spacing)


def _fill(ax: Axes, shape: Envelope, color: str, gid: str = "range") -> None:
    ax.fill_between(shape.x, shape.low, shape.high, color=color, alpha=BAND_ALPHA, linewidth=0, gid=gid)
    alone = _alone(shape.low + shape.high)
    if not alone.any():
        return
    stroke = 1.4 * setting("lines.markersize")
    ax.vlines(
        shape.x[alone], shape.low[alone], shape.high[alone], color=color, alpha=BAND_ALPHA, linewidth=stroke, gid=gid
    )


def downsampling_note(ax: Axes, series: Series, columns: int = 0, *, is_bars: bool = False) -> Note | None:
    """Explain what is drawn where rows share a column: the mean and the range of a line, the extreme of bars."""
    rows = _shape(ax, series, _bar_columns(ax, series) if is_bars else columns).rows
    if rows == 1:
        return None
    what = series.count_text(rows)
    if is_bars:
        return Note(f"each bar: the largest of {what}", brief=f"largest of {what}")
    return Note(f"each point: mean of {what}, band: their range", brief=f"mean of {what}")


def bars(ax: Axes, series: Series, color: str) -> float:
    """Draw bars from zero, and return the height to which lower ones are raised to be seen; 0.0 if there are none.

    Where they would be a solid block, each bar is the largest of several rows.
    """
    shape = _shape(ax, series, _bar_columns(ax, series))
    sign = -1.0 if (series.finite < 0).any() else 1.0
    sizes = np.fmax(np.abs(shape.low), np.abs(shape.high))
    least = _MIN_BAR * (ax.get_ylim()[1] - ax.get_ylim()[0])
    low = (sizes > 0) & (sizes < least)
    _steps(ax, shape.x, sign * np.where(low, least, sizes), shape.width, color)
    return least if low.any() else 0.0


def bars_stand_apart(ax: Axes, width: float) -> bool:
    """Tell whether there is room between bars of a width in epochs, or would they be a solid block."""
    first, last = ax.get_xlim()
    return width_in_em(ax) * width / (last - first) > _BAR_EMS


def _bar_columns(ax: Axes, series: Series) -> int:
    """Return in how many columns bars are gathered; 0 where each row has a bar of its own."""
    fit = int(width_in_em(ax) / _BAR_EMS) - 2
    return min(_FEW_BARS, fit) if len(series.epoch) > pixel_columns(ax) else 0


def _steps(ax: Axes, x: Floats, height: Floats, width: float, color: str) -> None:
    """Draw bars of one width; the room between two of them is a step without a value."""
    from matplotlib.patches import StepPatch

    apart = bars_stand_apart(ax, width)
    half = 0.4 * width if apart else 0.5 * width
    edges = np.column_stack([x - half, x + half]).ravel()
    heights = np.insert(height, np.arange(1, len(height)), np.nan)
    if len(edges) > 2:  # noqa: PLR2004 - rows closer than usual, as the last of a run in steps, get narrower bars
        edges[1:-1:2] = np.minimum(edges[1:-1:2], (x[:-1] + x[1:]) / 2)
        edges[2::2] = np.maximum(edges[2::2], (x[:-1] + x[1:]) / 2)
    if not apart:  # neighbours share an edge, so that no seam of background shows between them
        touching = np.flatnonzero(np.diff(x) < GAP * width)
        edges = np.delete(edges, 2 * touching + 1)
        heights = np.delete(heights, 2 * touching + 1)
    # Not ax.stairs: it searches every edge for the limits, which are set already.
    ax.add_artist(StepPatch(heights, edges, baseline=0, fill=True, color=color, linewidth=0, gid="bars"))


def star(ax: Axes, trace: Trace, color: str) -> tuple[float, float]:
    """Mark the row with the lowest value, and return its epoch and value."""
    series = trace.series
    best = int(np.nanargmin(series.value))
    epoch, value = float(series.epoch[best]), float(series.value[best])
    size, edge = 2.8 * setting("lines.markersize"), setting("axes.facecolor")
    ax.plot(
        [epoch], [value], "*", color=color, markersize=size, markeredgecolor=edge, zorder=5, clip_on=False, gid="best"
    )
    return epoch, value


def _alone(value: Floats) -> Flags:
    """Tell which values have no number on either side, so that no line reaches them."""
    there = np.concatenate([[False], np.isfinite(value), [False]])
    alone: Flags = there[1:-1] & ~there[:-2] & ~there[2:]
    return alone


def add_end_labels(ax: Axes, last_epoch: float, traces: Sequence[Trace]) -> None:
    """Write each trace's name beside the end of its line, pushed apart where lines meet; of equals, the first on top.

    A sample of its line stands before each name, joined to the line's end by a thin stroke. The axes get longer by
    the room that the names take; the ticks stay as they are.
    """
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground=setting("axes.facecolor"))]  # legible on the grid
    reach = ax.get_ylim()[1] - ax.get_ylim()[0] if ax.get_yscale() == "linear" else 0.0
    ends = [(trace, *trace.series.last_point) for trace in reversed(traces)]
    ends.sort(key=lambda end: round(end[2] / reach, 2) if reach else end[2])
    start = _SAMPLE[1] + 0.4
    written = [
        ax.annotate(
            trace.name, (last_epoch, value), (start, 0), textcoords="offset fontsize", va="center",
            color=text_color(trace.color), gid="end", annotation_clip=False, path_effects=halo,
        )
        for trace, _, value in ends
    ]  # fmt: skip
    boxes = [text.get_window_extent() for text in written]
    em_px = float(written[0].get_fontsize()) * ax.figure.dpi / 72
    first, last = ax.get_xlim()
    room = max(box.width for box in boxes) + start * em_px
    ax.set_xlim(first, first + (last - first) / (1 - min(0.6, room / ax.bbox.width)))
    middles = _push_apart(ax, written, 1.05 * boxes[0].height)
    thin = setting("lines.linewidth") / 2
    for (trace, epoch, value), text, middle in zip(ends, written, middles, strict=True):
        end_x, end_y = ax.transData.transform((epoch, value))
        label_x = ax.transData.transform((last_epoch, value))[0]
        text.xyann = (start, (middle - end_y) / em_px)
        end_y = min(max(end_y, ax.bbox.y0), ax.bbox.y1)  # where a line off scale leaves the axes
        left, right = (label_x + em * em_px for em in _SAMPLE)
        lead, sample = ((end_x, end_y), (left, middle)), ((left, middle), (right, middle))
        _line_in_pixels(ax, lead, linestyle="-", color=trace.color, linewidth=thin, alpha=0.5)
        _line_in_pixels(ax, sample, linestyle=trace.style, color=trace.color, alpha=1.0)


def _line_in_pixels(ax: Axes, ends: Sequence[tuple[float, float]], **look: Any) -> None:
    """Draw a line between pixels that keeps its place in the axes at any resolution."""
    (x0, y0), (x1, y1) = ax.transAxes.inverted().transform(ends)
    ax.plot([x0, x1], [y0, y1], transform=ax.transAxes, clip_on=False, gid="leader", scalex=False, scaley=False, **look)


def _push_apart(ax: Axes, written: Sequence[Annotation], distance: float) -> list[float]:
    """Return the middles, in pixels, of labels sorted upwards: ``distance`` apart and within the axes."""
    wanted = ax.transData.transform([(0, text.xy[1]) for text in written])[:, 1]
    bottom, top = ax.bbox.y0 + distance / 2, ax.bbox.y1 - distance / 2
    middles = np.minimum(wanted, top - distance * np.arange(len(wanted))[::-1])
    for i, middle in enumerate(middles):
        middles[i] = max(middle, bottom if i == 0 else middles[i - 1] + distance)
    return [float(middle) for middle in middles]
