"""The look of each run when several share a picture: colour, dashes and name, the same in every picture."""

from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.markdown import one_line

# M. Okabe and K. Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/: all but the one of the eight
# that the background swallows, strongest contrast first. Light grey stands for black on the dark background.
_COLORS = {
    "dark": ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#E6E8EB"),
    "paper": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"),
}
_STYLES = ("-", "--")  # once all colours are taken, they return dashed
MOST_RUNS = len(_STYLES) * len(_COLORS["dark"])


class RunLine(NamedTuple):
    """One run, or a group of runs that share a line, and how it looks in every picture."""

    name: str
    histories: tuple[RunHistory, ...]
    color: str
    style: str  # of its line


def run_lines(runs: Sequence[tuple[str, RunHistory | Sequence[RunHistory]]], theme: str) -> list[RunLine]:
    """Return each run, a name and its history (or those of a group), with its look; ``MOST_RUNS`` at most."""
    looks = [(color, style) for style in _STYLES for color in _COLORS[theme]]
    return [
        RunLine(drawable_name(name), tuple(runs) if isinstance(runs, Sequence) else (runs,), color, style)
        for (name, runs), (color, style) in zip(runs, looks, strict=False)
    ]


def with_short_names(runs: Sequence[RunLine], length: int) -> list[RunLine]:
    """Return the runs with names of at most ``length`` characters; numbered, if leaving out letters made two alike."""
    names = [run.name for run in runs]
    if max(map(len, names)) > length:
        names = _without_common_start(names)
    names = [shortened(name, length) for name in names]
    if len(set(names)) < len(names):
        names = [f"{i} {shortened(run.name, length - 3)}" for i, run in enumerate(runs, start=1)]
    # A dollar sign would begin a formula.
    return [run._replace(name=name.replace("$", r"\$")) for run, name in zip(runs, names, strict=True)]


def _without_common_start(names: Sequence[str]) -> list[str]:
    """Leave out the words that all names begin with; runs of a sweep often share them."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    start = "".join(letters[0] for letters in alike)
    shared = max(start.rfind(separator) + 1 for separator in "-_ ./")
    return [name[shared:] or name for name in names] if len(names) > 1 else list(names)


def drawable_name(name: str) -> str:
    """Return a name with a square for each letter that is not in the pictures' font."""
    from matplotlib.font_manager import fontManager, get_font

    font = get_font(fontManager.findfont("DejaVu Sans"))
    return "".join(c if font.get_char_index(ord(c)) else "\N{WHITE SQUARE}" for c in one_line(name))


def shortened(name: str, length: int) -> str:
    """Leave out the middle: runs of a sweep differ at the end as often as at the start."""
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail]}\N{HORIZONTAL ELLIPSIS}{name[-tail:]}"
