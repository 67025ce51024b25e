"""Words in a picture: short numbers and times, the epochs of a note, names of runs that fit and can be drawn."""

import logging
import re
from collections.abc import Sequence
from functools import cache
from os.path import commonprefix
from unicodedata import east_asian_width

import numpy as np

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.markdown import one_line
from mlflow_ddpm.plotting.series import GAP, Floats, Series, series
from mlflow_ddpm.plotting.themes import add_new_fonts, font_families

_log = logging.getLogger("mlflow_ddpm")
_PLAIN_FROM, _GROUPED_FROM, _PLAIN_TO = 1e-3, 1e3, 1e6
_SHORT_NAME = 8  # letters of a run's name in the dashboard's subtitle, at least
_LEFT_OUT = "\N{HORIZONTAL ELLIPSIS}"  # stands for the letters of a name that are not drawn
MAX_NAMED = 3  # this many epochs are named one by one; more are a range or a count


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
    else:
        facts.append(loss.count_text(len(loss.epoch)) if loss.noun == "epoch" else f"{loss.epoch[-1]:,.0f} steps")
    if len(loss.finite):
        best = int(np.nanargmin(loss.value))
        facts.append(f"best loss {number(loss.value[best])} at {epochs_text(loss, loss.epoch[best : best + 1])}")
    if len(loss.nonfinite_epochs):
        facts.append(f"{loss.nonfinite_kind} in {epochs_text(loss, loss.nonfinite_epochs)}")
    if len(time.finite):
        facts.append("training time " + duration(time.finite[-1]))
    name = shortened(name, max(_SHORT_NAME, letters - sum(len(fact) + 5 for fact in facts)))
    return "  \u00b7  ".join(fact for fact in (name.replace("$", r"\$"), *facts) if fact)


def short_names(names: Sequence[str], length: int) -> list[str]:
    """Return runs' names with ``length`` characters at most; numbered, if leaving out letters made two alike."""
    whole = names
    if len(names) > 1 and max(map(len, names)) > length:  # runs of a sweep often share their first words
        start = commonprefix(names)  # noqa: RUF071 - of letters, not of folders
        shared = max(start.rfind(separator) + 1 for separator in "-_ ./")
        names = [name[shared:] or name for name in names]
    short = [shortened(name, length) for name in names]
    if len(set(short)) < len(short):
        short = [f"{i} {shortened(name, length - 3)}" for i, name in enumerate(whole, start=1)]
    return [name.replace("$", r"\$") for name in short]  # a dollar sign would begin a formula


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
