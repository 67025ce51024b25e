"""What is written in and around axes: names of lines at their ends, the reason why axes are empty, readable colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.plotting.run_styles import drawable_name, shortened
from mlflow_ddpm.plotting.series import GAP, Floats, Series, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

_PLAIN_FROM, _GROUPED_FROM, _PLAIN_TO = 1e-3, 1e3, 1e6
_SHORT_NAME = 8  # letters of a run's name in the dashboard's subtitle, at least
MAX_NAMED = 3  # this many epochs are named one by one; more are a range or a count


class EndLabel(NamedTuple):
    """A name beside the end of a line, which a sample of the line leads to."""

    text: str
    epoch: float  # of the line's last point
    value: float
    color: str
    style: str


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
    seconds = round(seconds) if seconds >= 59.95 else seconds  # noqa: PLR2004 - what rounds to a minute
    for unit, size, next_unit, next_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} {seconds % size // next_size:02.0f} {next_unit}"
    return f"{number(seconds)} s"


def epochs_text(series_of_run: Series, epochs: Floats) -> str:
    """Name up to three epochs, a range of neighbours by its ends, and count others."""
    noun = series_of_run.noun + ("s" if len(epochs) > 1 else "")
    if len(epochs) <= MAX_NAMED:
        return f"{noun} " + ", ".join(f"{epoch:,.0f}" for epoch in epochs)
    if np.diff(epochs).max() < GAP * series_of_run.spacing:
        return f"{noun} {epochs[0]:,.0f}\u2013{epochs[-1]:,.0f}"
    return series_of_run.count_text(len(epochs))


def run_subtitle(history: RunHistory, letters: int) -> str:
    """Return the run in one line: name, epochs, best loss, epochs without a finite loss, training time if measured.

    A long name is shortened until they fit.
    """
    facts, run_id = [], str(history.run.get("run_id") or "")[:8]
    name = drawable_name(str(history.run.get("run_name") or run_id), run_id)
    loss, time = series(history, "loss_mean"), series(history, "cumulative_time_sec")
    if not len(loss.epoch):
        facts.append(f"no {loss.noun}s yet")
    elif loss.noun == "epoch":
        facts.append(loss.count_text(len(loss.epoch)))
    else:
        facts.append(f"{loss.epoch[-1]:,.0f} {loss.noun}s")
    if len(loss.finite):
        best = int(np.nanargmin(loss.value))
        facts.append(f"best loss {number(loss.value[best])} at {epochs_text(loss, loss.epoch[best : best + 1])}")
    if len(loss.nonfinite_epochs):
        facts.append(f"{loss.nonfinite_kind} in {epochs_text(loss, loss.nonfinite_epochs)}")
    if len(time.finite):
        facts.append("training time " + duration(time.finite[-1]))
    name = shortened(name, max(_SHORT_NAME, letters - sum(len(fact) + 5 for fact in facts)))
    return "  \u00b7  ".join(fact for fact in (name.replace("$", r"\$"), *facts) if fact)


def muted_color() -> str:
    """Return the colour of words that should not compete with the data."""
    from matplotlib import rcParams

    return str(rcParams["axes.labelcolor"])


def text_color(color: str) -> str:
    """Return a colour for words: the given one, mixed with the text's own until it can be read on the background."""
    from matplotlib import rcParams
    from matplotlib.colors import to_hex, to_rgb

    own, text, back = (np.array(to_rgb(c)) for c in (color, rcParams["text.color"], rcParams["axes.facecolor"]))
    mixed = (own + share * (text - own) for share in np.linspace(0, 1, 21))
    readable = next((rgb for rgb in mixed if contrast(rgb, back) >= _READABLE), text)
    return to_hex((readable[0], readable[1], readable[2]))


def contrast(color: Floats, other: Floats) -> float:
    """Return the contrast of two colours (red, green, blue from 0 to 1), from 1 to 21: WCAG 2.1, contrast ratio."""
    lights = [float(((c + 0.055) / 1.055) ** 2.4 @ _LIGHT) for c in (color, other)]  # no branch for near-black
    return (max(lights) + 0.05) / (min(lights) + 0.05)


_LIGHT = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue at full strength
_READABLE = 4.5  # what WCAG 2.1, level AA, asks of small letters


def show_placeholder(ax: Axes, reason: str) -> None:
    """Write in the middle of empty axes why there is nothing to see."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.text(
        0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", color=muted_color(), linespacing=1.6,
        gid="empty",
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


_SAMPLE = (0.5, 1.9)  # from where to where a label's sample of its line reaches, in the size of letters


def add_end_labels(ax: Axes, last_epoch: float, labels: Sequence[EndLabel]) -> None:
    """Write labels beside the ends of their lines, pushed apart where the lines meet; of equals, the first on top.

    A sample of its line stands before each label, joined to the line's end by a thin stroke. The axes get longer by
    the room that the labels take; the ticks stay as they are.
    """
    from matplotlib import rcParams
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.5, foreground=rcParams["axes.facecolor"])]  # legible on the grid
    reach = ax.get_ylim()[1] - ax.get_ylim()[0] if ax.get_yscale() == "linear" else 0.0
    rank = [(round(label.value / reach, 2) if reach else label.value, -i) for i, label in enumerate(labels)]
    ordered = [labels[i] for i in sorted(range(len(labels)), key=rank.__getitem__)]
    start = _SAMPLE[1] + 0.4
    written = [
        ax.annotate(
            label.text, (last_epoch, label.value), (start, 0), textcoords="offset fontsize", va="center",
            color=text_color(label.color), gid="end", annotation_clip=False, path_effects=halo,
        )
        for label in ordered
    ]  # fmt: skip
    boxes = [text.get_window_extent() for text in written]
    em_px = float(written[0].get_fontsize()) * ax.figure.dpi / 72
    first, last = ax.get_xlim()
    room = max(box.width for box in boxes) + start * em_px
    ax.set_xlim(first, first + (last - first) / (1 - min(0.6, room / ax.bbox.width)))
    middles = _push_apart(ax, written, 1.05 * boxes[0].height)
    thin = rcParams["lines.linewidth"] / 2
    for label, text, middle in zip(ordered, written, middles, strict=True):
        end_x, end_y = ax.transData.transform((label.epoch, label.value))
        label_x = ax.transData.transform((last_epoch, label.value))[0]
        text.xyann = (start, (middle - end_y) / em_px)
        end_y = min(max(end_y, ax.bbox.y0), ax.bbox.y1)  # where a line off scale leaves the axes
        left, right = (label_x + em * em_px for em in _SAMPLE)
        _line_in_pixels(
            ax, ((end_x, end_y), (left, middle)), linestyle="-", color=label.color, linewidth=thin, alpha=0.5
        )
        _line_in_pixels(ax, ((left, middle), (right, middle)), linestyle=label.style, color=label.color, alpha=1.0)


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
