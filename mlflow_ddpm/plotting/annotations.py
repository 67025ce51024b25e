"""What is written in and around axes: notes under the title, labels beside what they name, reasons for emptiness."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from numpy.typing import NDArray

    from mlflow_ddpm.plotting.series import Series

    Floats = NDArray[np.float64]

__all__ = [
    "NAMED",
    "NOTE_ROW",
    "Note",
    "contrast",
    "duration",
    "empty",
    "end_labels",
    "epochs_text",
    "ink",
    "muted",
    "note",
    "nothing_to_draw",
    "number",
]

_PLAIN_FROM, _GROUPED_FROM, _PLAIN_TO = 1e-3, 1e3, 1e6
NOTE_ROW = 1.4  # from one row of notes to the next, in the size of their letters
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


def ink(color: str) -> str:
    """Return a colour for words: the given one, mixed with the text's own until it can be read on the background."""
    from matplotlib import rcParams
    from matplotlib.colors import to_hex, to_rgb

    own, text, back = (np.array(to_rgb(c)) for c in (color, rcParams["text.color"], rcParams["axes.facecolor"]))
    mixed = (own + share * (text - own) for share in np.linspace(0, 1, 21))
    readable = next((rgb for rgb in mixed if contrast(rgb, back) >= _READABLE), text)
    return to_hex((readable[0], readable[1], readable[2]))


def contrast(one: Floats, other: Floats) -> float:
    """Return the contrast of two colours (red, green, blue from 0 to 1), from 1 to 21: WCAG 2.1, contrast ratio."""
    lights = [float(((c + 0.055) / 1.055) ** 2.4 @ _LIGHT) for c in (one, other)]  # without its branch for near-black
    return (max(lights) + 0.05) / (min(lights) + 0.05)


_LIGHT = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue at full strength
_READABLE = 4.5  # what WCAG 2.1, level AA, asks of small letters


def note(ax: Axes, notes: Iterable[Note | None]) -> None:
    """Write notes above the axes: in one row under the title of a picture, else in up to two rows.

    If they do not fit, the last ones are shortened first and, if that is not enough, left out. So put those that matter
    most first.
    """
    from matplotlib import rcParams

    size = rcParams["legend.fontsize"]
    em_px = size * ax.figure.dpi / 72
    titled, alone = bool(ax.get_title(loc="left")), len(ax.figure.axes) == 1
    room, rows = ax.bbox.width + em_px, 1 if titled and alone else 2
    kept = [n for n in notes if n is not None]
    written = [
        ax.annotate(
            n.text, (0, 1), (0, 0.9), xycoords="axes fraction", textcoords="offset fontsize",
            fontsize=size, color=ink(n.color) if n.color else muted(), annotation_clip=False, gid="note",
        )
        for n in kept
    ]  # fmt: skip
    widths = [text.get_window_extent().width for text in written]
    for i in reversed(range(len(kept))):
        if kept[i].brief and not _fit(_flow(widths, room, em_px), widths, room, rows):
            written[i].set_text(kept[i].brief)
            widths[i] = written[i].get_window_extent().width
    places = _flow(widths, room, em_px)
    last = rows - 1 if titled else min(rows - 1, max((row for row, _ in places), default=0))
    for text, width, (row, start) in zip(written, widths, places, strict=True):
        text.xyann = (start / em_px, 0.9 + NOTE_ROW * (last - row))
        text.set_visible(row < rows and (start + width <= room or (row, start) == (0, 0.0)))


_NOTE_GAP = 1.3  # between notes, in the size of their letters


def _flow(widths: Sequence[float], room: float, em_px: float) -> list[tuple[int, float]]:
    """Return row and start, in pixels, of notes put one after the other."""
    places, row, start = [], 0, 0.0
    for width in widths:
        if start and start + width > room:
            row, start = row + 1, 0.0
        places.append((row, start))
        start += width + _NOTE_GAP * em_px
    return places


def _fit(places: Sequence[tuple[int, float]], widths: Sequence[float], room: float, rows: int) -> bool:
    return all(row < rows and start + width <= room for (row, start), width in zip(places, widths, strict=True))


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
            text, (last_epoch, value), (0.6, 0), textcoords="offset fontsize", va="center", color=ink(color), gid="end"
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
