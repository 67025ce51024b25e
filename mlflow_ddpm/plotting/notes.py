"""The notes above axes: what the marks of the picture mean, each beside a sample of it, and facts about the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlflow_ddpm.plotting.series import Floats
from mlflow_ddpm.plotting.themes import setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTE_ROW = 1.4  # from one row of notes to the next, in the size of their letters
BAND_ALPHA = 0.28
_ROWS = 2
_NOTE_GAP, _SWATCH_GAP = 1.3, 0.4  # after a note and after its swatch, in the size of their letters
_LIGHT = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue at full strength
_READABLE = 4.5  # what WCAG 2.1, level AA, asks of small letters
_SWATCH_WIDTHS = {"band": 1.1, "bar": 0.8, "-": 1.7, "--": 2.1, ":": 1.7, "-.": 2.1}  # a marker takes 0.9


class Note(NamedTuple):
    """Words above the axes. One with a swatch explains a mark of the picture; one without is a fact.

    Printed figures show the marks' notes alone: the facts belong in the caption (``figure.facts``).
    """

    text: str
    color: str = ""
    brief: str = ""  # what is written where the text does not fit
    swatch: str = ""  # a line style ("-", "--", ...), "band", "bar", or a marker
    printed: str = ""  # what a printed figure has in place of the brief text


def add_notes(ax: Axes, notes: Iterable[Note | None]) -> None:
    """Write notes above the axes, in up to two rows; those of a grid's panels begin under the title in any case.

    If they do not fit, the last ones are shortened first and, if that is not enough, left out. So put those that matter
    most first.
    """
    facts = getattr(ax.figure, "facts", None)
    kept = [note for note in notes if note is not None]
    if facts is not None:
        facts += [note.text for note in kept if note.printed or not note.swatch]
        kept = [n._replace(text=n.printed, brief="") if n.printed else n for n in kept if n.swatch]
    size = setting("legend.fontsize")
    em_px = size * ax.figure.dpi / 72
    is_alone, room = len(ax.figure.axes) == 1, ax.bbox.width + em_px
    written = [
        ax.annotate(
            note.text, (0, 1), (0, 0.9), xycoords="axes fraction", textcoords="offset fontsize",
            fontsize=size, color=text_color(note.color) if note.color else setting("axes.labelcolor"),
            annotation_clip=False, gid="note",
        )
        for note in kept
    ]  # fmt: skip
    swatches = [em_px * (_SWATCH_WIDTHS.get(n.swatch, 0.9) + _SWATCH_GAP) if n.swatch else 0.0 for n in kept]
    widths = [w + text.get_window_extent().width for w, text in zip(swatches, written, strict=True)]
    for i in reversed(range(len(kept))):
        if kept[i].brief and not all(has_room for *_, has_room in _flow(widths, room, em_px)):
            written[i].set_text(kept[i].brief)
            widths[i] = swatches[i] + written[i].get_window_extent().width
    places = _flow(widths, room, em_px)
    last = min(_ROWS - 1, max((row for row, *_ in places), default=0)) if is_alone else _ROWS - 1
    for note, text, swatch, (row, start, has_room) in zip(kept, written, swatches, places, strict=True):
        up = 0.9 + NOTE_ROW * (last - row)
        text.xyann = ((start + swatch) / em_px, up)
        text.set_visible(has_room or (row, start) == (0, 0.0))
        if note.swatch and text.get_visible():
            _draw_swatch(ax, note, (start / ax.bbox.width, 1 + (up + 0.33) * em_px / ax.bbox.height), em_px)


def _draw_swatch(ax: Axes, note: Note, place: tuple[float, float], em_px: float) -> None:
    """Draw what a note explains, as it is drawn in the axes, with its left end at a place in axes fractions."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    (x, y), color = place, note.color or setting("axes.labelcolor")
    em_x, em_y = em_px / ax.bbox.width, em_px / ax.bbox.height
    width = em_x * _SWATCH_WIDTHS.get(note.swatch, 0.9)
    if note.swatch in ("band", "bar"):
        alpha = BAND_ALPHA if note.swatch == "band" else 1.0
        ax.add_artist(
            Rectangle(
                (x, y - 0.38 * em_y), width, 0.76 * em_y, transform=ax.transAxes, facecolor=color, alpha=alpha,
                linewidth=0, clip_on=False, gid="swatch",
            )
        )  # fmt: skip
        return
    if note.swatch in _SWATCH_WIDTHS:
        thickness = setting("lines.linewidth") * (0.6 if note.swatch == ":" else 1.0)
        style: Any = note.swatch
        line = Line2D([x, x + width], [y, y], linestyle=style, color=color, linewidth=thickness)
    else:
        size = setting("lines.markersize") * (2.2 if note.swatch == "*" else 1.2)
        line = Line2D([x + width / 2], [y], linestyle="", marker=note.swatch, color=color, markersize=size)
        line.set_markeredgewidth(size / 4 if note.swatch == "x" else 0)
    line.set(transform=ax.transAxes, clip_on=False, gid="swatch")
    ax.add_artist(line)


def _flow(widths: Sequence[float], room: float, em_px: float) -> list[tuple[int, float, bool]]:
    """Return row and start, in pixels, of notes put one after the other, and whether there is room for each."""
    places, row, start = [], 0, 0.0
    for width in widths:
        if start and start + width > room:
            row, start = row + 1, 0.0
        places.append((row, start, row < _ROWS and start + width <= room))
        start += width + _NOTE_GAP * em_px
    return places


def note_rows(ax: Axes) -> int:
    """Return how many rows of notes stand above axes."""
    from matplotlib.text import Annotation

    notes = [text for text in ax.texts if isinstance(text, Annotation) and text.get_gid() == "note"]
    return len({text.xyann[1] for text in notes if text.get_visible()})


def text_color(color: str) -> str:
    """Return a colour for words: the given one, mixed with the text's own until it can be read on the background."""
    from matplotlib.colors import to_hex, to_rgb

    own, text, back = (np.array(to_rgb(c)) for c in (color, setting("text.color"), setting("axes.facecolor")))
    mixed = (own + share * (text - own) for share in np.linspace(0, 1, 21))
    readable = next((rgb for rgb in mixed if contrast(rgb, back) >= _READABLE), text)
    return to_hex((readable[0], readable[1], readable[2]))


def contrast(color: Floats, other: Floats) -> float:
    """Return the contrast of two colours (red, green, blue from 0 to 1), from 1 to 21: WCAG 2.1, contrast ratio."""
    lights = [float(((c + 0.055) / 1.055) ** 2.4 @ _LIGHT) for c in (color, other)]  # no branch for near-black
    return (max(lights) + 0.05) / (min(lights) + 0.05)
