"""The look of each run when several share a picture: colour, dashes and name, the same in every picture."""

import logging
import re
from collections.abc import Sequence
from functools import cache
from itertools import takewhile
from typing import NamedTuple
from unicodedata import east_asian_width

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.markdown import one_line
from mlflow_ddpm.plotting.themes import add_new_fonts, font_families

_log = logging.getLogger("mlflow_ddpm")

# M. Okabe and K. Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/: all but the one of the eight
# that the background swallows, strongest contrast first. Light grey stands for black on the dark background.
_COLORS = {
    "dark": ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#E6E8EB"),
    "paper": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"),
}
_LEFT_OUT = "\N{HORIZONTAL ELLIPSIS}"  # stands for the letters of a name that are not drawn
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
        RunLine(drawable_name(name, f"run {i}"), tuple(runs) if isinstance(runs, Sequence) else (runs,), color, style)
        for i, ((name, runs), (color, style)) in enumerate(zip(runs, looks, strict=False), start=1)
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


@cache
def drawable_name(name: str, substitute: str) -> str:
    """Return a name without the letters that no font of the pictures has, or a substitute if that leaves none."""
    name = one_line(name)
    if _missing_letters(name):
        add_new_fonts()
    missing = _missing_letters(name)
    if not missing:
        return name
    drawn = re.sub(f"[{re.escape(missing)}]+", _LEFT_OUT, name)
    drawn = drawn if any(map(str.isalnum, drawn)) else substitute
    _log.warning(
        "figures write %r for %r: no font here has all its letters; install one, such as Noto Sans CJK or Noto Emoji",
        drawn, name,
    )  # fmt: skip
    return drawn


def _missing_letters(name: str) -> str:
    from matplotlib.font_manager import fontManager, get_font

    fonts = [get_font(fontManager.findfont(family)) for family in font_families("")]
    return "".join({c for c in name if not any(font.get_char_index(ord(c)) for font in fonts)})


def shortened(name: str, length: int) -> str:
    """Leave out the middle: runs of a sweep differ at the end as often as at the start. A wide letter counts twice."""
    length = int(length * len(name) / (sum(1 + (east_asian_width(c) in "WF") for c in name) or 1))
    if len(name) <= length:
        return name
    tail = (length - 1) // 2
    return f"{name[: length - 1 - tail]}{_LEFT_OUT}{name[-tail:]}"
