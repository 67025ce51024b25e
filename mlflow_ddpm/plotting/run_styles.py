"""How runs are told apart when several share a picture: colour, dashes and name, the same in every picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlflow_ddpm.core.markdown import one_line

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MOST_RUNS", "RunLine", "run_lines", "with_short_names"]

# M. Okabe and K. Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/: all but the one of the eight
# that the background swallows, strongest contrast first. Light grey stands for black on the dark background.
_COLORS = {
    "dark": ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#E6E8EB"),
    "paper": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"),
}
_STYLES = ("-", "--")  # once all colours are taken, they return dashed
MOST_RUNS = len(_STYLES) * len(_COLORS["dark"])
_INK = 0.35  # words in a run's colour are mixed with so much of the text's own, or pale ones could not be read


class RunLine(NamedTuple):
    """One run, and how it looks in every picture."""

    name: str
    history: pd.DataFrame
    color: str
    style: str  # of its line
    ink: str  # of words that speak of it


def run_lines(runs: Sequence[tuple[str, pd.DataFrame]], theme: str) -> list[RunLine]:
    """Return each run, a name and a history, with its look, under a theme's settings; ``MOST_RUNS`` at most."""
    looks = [(color, style) for style in _STYLES for color in _COLORS[theme]]
    return [
        RunLine(_drawable(name), history, color, style, _ink(color))
        for (name, history), (color, style) in zip(runs, looks, strict=False)
    ]


def with_short_names(runs: Sequence[RunLine], length: int) -> list[RunLine]:
    """Return the runs with names of at most ``length`` characters; numbered, if leaving out letters made two alike."""
    names = [_shortened(run.name, length) for run in runs]
    if len(set(names)) < len(names):
        names = [f"{i} {_shortened(run.name, length - 3)}" for i, run in enumerate(runs, start=1)]
    # A dollar sign would begin a formula.
    return [run._replace(name=name.replace("$", r"\$")) for run, name in zip(runs, names, strict=True)]


def _drawable(name: str) -> str:
    """Return the name with a sign for each letter that the pictures' font lacks."""
    from matplotlib.font_manager import fontManager, get_font

    font = get_font(fontManager.findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else "\N{WHITE SQUARE}" for c in one_line(name))


def _shortened(name: str, length: int) -> str:
    """Leave out the middle: runs of a sweep differ at the end as often as at the start."""
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{name[-tail:]}"


def _ink(color: str) -> str:
    from matplotlib import rcParams
    from matplotlib.colors import to_hex, to_rgb

    text = to_rgb(rcParams["text.color"])
    mixed = [(1 - _INK) * own + _INK * other for own, other in zip(to_rgb(color), text, strict=True)]
    return to_hex((mixed[0], mixed[1], mixed[2]))
