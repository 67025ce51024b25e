"""What is written in and around axes: notes under the title, labels beside what they name, reasons for emptiness."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import BboxBase
    from numpy.typing import NDArray

    from mlflow_ddpm.figures.series import Series

    Floats = NDArray[np.float64]

__all__ = [
    "NAMED",
    "Note",
    "callout",
    "duration",
    "empty",
    "end_labels",
    "epochs_text",
    "muted",
    "note",
    "nothing_to_draw",
    "number",
]

_PLAIN_FROM, _GROUPED_FROM, _PLAIN_TO = 1e-3, 1e3, 1e6
NAMED = 3  # so many epochs are named one by one; more are counted


class Note(NamedTuple):
    """A few words under the title, in the colour of what they speak of, and fewer words for narrow axes."""

    text: str
    color: str = ""
    brief: str = ""


def number(value: float) -> str:
    """Write a number as short as it can be read: four digits or, above a thousand, no decimals."""
    size = abs(value)
    if _GROUPED_FROM <= size < _PLAIN_TO:
        text = f"{value:,.0f}"
    elif not value or _PLAIN_FROM <= size < _GROUPED_FROM:
        text = f"{value:.4g}"
    else:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text.replace("-", "\u2212")


def duration(seconds: float) -> str:
    """Write a time in the two units that matter."""
    for unit, size, next_unit, next_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} {seconds % size // next_size:.0f} {next_unit}"
    return f"{number(seconds)} s"


def epochs_text(epochs: Floats) -> str:
    """Name one to three epochs, count more."""
    if len(epochs) > NAMED:
        return f"{len(epochs):,} epochs"
    return ("epoch " if len(epochs) == 1 else "epochs ") + ", ".join(f"{e:.0f}" for e in epochs)


def muted() -> str:
    """Return the colour of words that should not compete with the data."""
    from matplotlib import rcParams

    return str(rcParams["axes.labelcolor"])


def note(ax: Axes, notes: Iterable[Note | None]) -> None:
    """Write notes in one line between title and axes; if they do not fit, the last ones in brief, and then fewer.

    So put those that matter most first.
    """
    from matplotlib import rcParams

    size = rcParams["legend.fontsize"]
    em_px = size * ax.figure.dpi / 72
    room = ax.bbox.width + em_px
    kept = [n for n in notes if n is not None]
    written = [
        ax.annotate(
            n.text, (0, 1), (0, 0.9), xycoords="axes fraction", textcoords="offset fontsize",
            fontsize=size, color=n.color or muted(), annotation_clip=False, gid="note",
        )
        for n in kept
    ]  # fmt: skip
    for n, text in reversed(list(zip(kept, written, strict=True))):
        if n.brief and _ends(written, em_px)[-1] > room:
            text.set_text(n.brief)
    starts = [0.0, *(end + _NOTE_GAP * em_px for end in _ends(written, em_px))]
    for text, start, end in zip(written, starts, _ends(written, em_px), strict=False):
        text.xyann = (start / em_px, 0.9)
        text.set_visible(start == 0 or end <= room)


_NOTE_GAP = 1.3  # between notes, in the size of their letters


def _ends(written: Sequence[Annotation], em_px: float) -> list[float]:
    """Return where each note would end, in pixels, if they are put in a row."""
    widths = np.array([text.get_window_extent().width for text in written])
    return list(np.cumsum(widths + _NOTE_GAP * em_px) - _NOTE_GAP * em_px)


def empty(ax: Axes, reason: str) -> None:
    """Say why there is nothing to see, and leave nothing else to look at."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.text(
        0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color=muted(), linespacing=1.6, gid="empty"
    )


def nothing_to_draw(ax: Axes, of: Series, why_not: str) -> bool:
    """Tell whether a series has no number at all; if so, the axes say whether and why it was never measured."""
    if len(of.finite):
        return False
    if not len(of.epoch):
        empty(ax, "no epochs yet")
    elif not of.measured:
        empty(ax, f"not measured:\n{why_not}")
    else:
        empty(ax, f"measured, but never finite:\n{of.broken_as} in {epochs_text(of.broken)}")
    return True


def end_labels(ax: Axes, last_epoch: float, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write (value, text, colour) labels beside the ends of their lines, pushed apart where the lines meet.

    The axes get longer by the room the labels take; the epochs' ticks stay as they are.
    """
    written = [
        ax.annotate(
            text, (last_epoch, value), (0.6, 0), textcoords="offset fontsize", va="center", color=color, gid="end"
        )
        for value, text, color in sorted(labels)
    ]
    boxes = [text.get_window_extent() for text in written]
    first, last = ax.get_xlim()
    room = max(box.width for box in boxes) + 0.6 * boxes[0].height
    ax.set_xlim(first, first + (last - first) / (1 - room / ax.bbox.width))
    _push_apart(ax, written, 1.05 * boxes[0].height)


def _push_apart(ax: Axes, written: Sequence[Annotation], distance: float) -> None:
    """Move labels, sorted upwards, so that their middles are ``distance`` pixels apart and within the axes."""
    wanted = ax.transData.transform([(0, text.xy[1]) for text in written])[:, 1]
    bottom, top = ax.bbox.y0 + distance / 2, ax.bbox.y1 - distance / 2
    middles = np.minimum(wanted, top - distance * np.arange(len(wanted))[::-1])
    for i, middle in enumerate(middles):
        middles[i] = max(middle, bottom if i == 0 else middles[i - 1] + distance)
    for text, middle, at in zip(written, middles, wanted, strict=True):
        em_px = float(text.get_fontsize()) * ax.figure.dpi / 72
        text.xyann = (0.6, (middle - at) / em_px)


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


# Where a callout may go, in its own widths and heights from the point, and what makes a place dear: to be far from the
# point, and the share of its width that covers line or band. The cheapest is taken, the first of equals.
_AROUND = [(across, up) for up in (2, -2, 3.5, -3.5, 5, 7, 9, 11, -5, -7) for across in (0, -0.4, 0.4, -0.8, 0.8)]
_FAR, _ON_BAND, _ON_LINE, _TOUCHES, _OUTSIDE = 0.03, 0.3, 1.0, 0.2, 10.0
_RIM = 0.06  # of the height, at the lower and upper edge, where marks may stand
_DOT = 0.2  # what the mark of a single epoch takes, in epochs


def _place(axes: BboxBase, point: tuple[float, float], size: BboxBase, shift: tuple[float, float]) -> BboxBase:
    """Return the box of a callout shifted from the point, but not beyond the sides of the axes."""
    x = np.clip(point[0] + shift[0] * size.width, axes.x0 + size.width / 2, axes.x1 - size.width / 2)
    left, bottom = x - size.width / 2, point[1] + shift[1] * size.height - size.height / 2
    return size.translated(left - size.x0, bottom - size.y0)


def _price(axes: BboxBase, box: BboxBase, busy: tuple[Floats, Floats, Floats, Floats]) -> float:
    x, line, low, high = busy
    wide = box.padded(box.height / 4)
    under = (x >= wide.x0) & (x <= wide.x1)
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
