"""Numbers, durations, counts and paths as people read them: in reports and messages, never in data files.

Five significant digits, fixed notation where it is short, and the three kinds of "no number" kept apart: a dash for
*not measured*, ``NaN`` and ``Inf`` for what was measured and is not finite.
"""

import contextlib
import math
import os
import re
import shlex
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_DASH = "\N{EN DASH}"
NOT_MEASURED = _DASH  # a hyphen would read as a minus sign
_DIGITS = 5
_FIXED_FROM, _FIXED_BELOW = 1e-4, 1e7
_MAX_RANGES = 8
_REPR_MAX = 80
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")  # escapes, line ends, changes of direction
_EPOCH = re.compile(r"\b(?:(a)n |(in) )?(e)poch(s?)\b(?=(:? \d)?)", re.IGNORECASE)


def count_of(count: int, noun: str, plural: str = "") -> str:
    """Return a count with its noun.

    >>> count_of(1, "epoch"), count_of(2, "epoch"), count_of(0, "batch", "batches")
    ('1 epoch', '2 epochs', '0 batches')
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def format_number(value: float | None) -> str:
    """Return about five significant digits; integers whole, short exact values short.

    >>> [format_number(v) for v in (0.001, 0.1233987, 81920.0, 1.5e-5, 12, float("nan"), float("-inf"))]
    ['0.001', '0.12340', '81920', '1.5e-05', '12', 'NaN', '-Inf']
    """
    if value is None:
        return NOT_MEASURED
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
    if value.is_integer() and abs(value) < _FIXED_BELOW:
        return str(int(value))
    shortest = f"{value:.{_DIGITS}g}"
    if float(shortest) == value:  # exact: 0.001 and 12.25 need no trailing zeros
        return shortest
    if not _FIXED_FROM <= abs(value) < _FIXED_BELOW:
        return f"{value:.{_DIGITS - 1}e}"
    decimals = _DIGITS - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(decimals, 0)}f}"


def format_duration(seconds: float | None) -> str:
    """Return hours, minutes and seconds, and from a minute on the seconds alone as well.

    >>> format_duration(3723.4), format_duration(12.3), format_duration(None)
    ('1 h 02 min 03 s (3723.4 s)', '12.3 s', 'not measured')
    """
    if seconds is None:
        return "not measured"
    if not math.isfinite(seconds) or round(seconds, 3) < 60:  # noqa: PLR2004 - seconds of a minute
        return f"{format_number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours} h {minutes:02d} min {rest:02d} s" if hours else f"{minutes} min {rest:02d} s"
    return f"{clock} ({seconds:.1f} s)"


def format_epochs(epochs: Iterable[int], spacing: float = 1.0) -> str:
    r"""Return sorted epochs as ranges, the first few of them; ``spacing`` is the usual distance of two rows.

    >>> format_epochs([9, 3, 4, 5]) == "3\N{EN DASH}5, 9"
    True
    """
    ranges: list[list[int]] = []
    for epoch in sorted(set(epochs)):
        if ranges and epoch - ranges[-1][-1] <= spacing:
            ranges[-1].append(epoch)
        else:
            ranges.append([epoch])
    shown = [str(a) if a == b else f"{a}{_DASH}{b}" for a, *_, b in ((r[0], *r) for r in ranges[:_MAX_RANGES])]
    more = sum(map(len, ranges[_MAX_RANGES:]))
    return ", ".join(shown) + (f" and {more} more" if more else "")


def display_path(path: Path) -> str:
    """Return a path as one would type it here: relative where it lies below, quoted where a shell needs it.

    Under ``mlflow run`` it is absolute: the working directory is the project's or a temporary one, not the caller's.
    """
    if os.environ.get("MLFLOW_RUN_ID"):
        return shlex.quote(str(path.absolute()))
    with contextlib.suppress(OSError):  # the working directory may be gone
        if path.is_relative_to(Path.cwd()):
            path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))


def printable(text: str) -> str:
    r"""Return a text on one line, without characters that a terminal obeys: names and causes may be a stranger's.

    >>> printable("a\x1b[2Jb\nc")
    'a [2Jb c'
    """
    return _CONTROLS.sub(" ", text)


def short_repr(value: object) -> str:
    r"""Return what a message shows of any value: its first characters, on one line.

    >>> short_repr("a\nb"), short_repr([1.5] * 1000)[-3:], short_repr(10**5000)
    ("'a\\nb'", '...', 'int')
    """
    try:
        text = " ".join(repr(value).split())
    except Exception:  # noqa: BLE001 - an int of 5,000 digits, a tensor without a value: its type has to do
        text = type(value).__name__
    return text if len(text) <= _REPR_MAX else f"{text[:_REPR_MAX]}..."


def first_line(error: BaseException) -> str:
    """Return what a message shows of an error of another library."""
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else type(error).__name__


def format_time(ms: Any) -> str:
    """Return a Unix time in milliseconds as a date, "" for anything else: it may come from a stranger."""
    with contextlib.suppress(OverflowError, ValueError, OSError, TypeError):
        return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    return ""


def in_steps(text: str) -> str:
    """Return a text on epochs as one on windows of steps, whose numbers are steps.

    >>> in_steps("An epoch's mean loss, lowest in epoch 3000 of 4 epochs")
    "A window's mean loss, lowest at step 3000 of 4 windows"
    """
    if text == "Epoch":
        return "Step"

    def reworded(match: re.Match[str]) -> str:
        article, preposition, initial, plural, number = match.groups()
        noun = "step" if number else "window"
        before = article or (preposition and ("at" if number else "in"))
        return (f"{before} " if before else "") + (noun.capitalize() if initial == "E" else noun) + plural

    return _EPOCH.sub(reworded, text)
