"""The benchmark's table: one row for each thing that issue 3 or issue 5 sets a limit to, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

__all__ = ["Limit", "Row", "at_least", "at_most", "markdown", "microseconds", "not_measured", "seconds"]

_HEAD = ("point", "what", "ours", "beside", "ratio", "limit", "verdict")


class Limit(NamedTuple):
    """What is promised, and whether it was kept."""

    text: str
    kept: bool


class Row(NamedTuple):
    """One measurement beside its baseline, both taken in the same run."""

    point: int | str  # of issue 3, or "5.5" for point 5 of issue 5
    what: str
    subject: str
    baseline: str
    ratio: float | None
    limit: Limit | None  # None: told for comparison, or not measured


def at_most(bound: float, value: float, unit: str = "x") -> Limit:
    """Return the promise that ``value`` stays at or below ``bound``."""
    return Limit(f"<= {bound:g} {unit}", value <= bound)


def at_least(bound: float, value: float, unit: str = "x") -> Limit:
    """Return the promise that ``value`` stays at or above ``bound``."""
    return Limit(f">= {bound:g} {unit}", value >= bound)


def not_measured(point: int | str, what: str, why: str) -> Row:
    """Return the row of something that this machine cannot measure."""
    return Row(point, what, f"not measured: {why}", "", None, None)


def microseconds(sec: float) -> str:
    """Return seconds in words of microseconds."""
    return f"{sec * 1e6:,.1f} µs"


def seconds(sec: float) -> str:
    """Return seconds in a unit that suits them."""
    if sec < 1e-3:
        return microseconds(sec)
    return f"{sec * 1e3:,.1f} ms" if sec < 1 else f"{sec:,.2f} s"


def markdown(rows: Iterable[Row], *, judge: bool) -> Iterator[str]:
    """Yield the table's lines as rows come in; ``judge`` false leaves the verdict out: tiny counts prove nothing."""
    yield "| " + " | ".join(_HEAD) + " |"
    yield "|---" * len(_HEAD) + "|"
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3g} x"
        verdict = "" if row.limit is None or not judge else ("ok" if row.limit.kept else "**over**")
        limit = row.limit.text if row.limit else ""
        cells = (str(row.point), row.what, row.subject, row.baseline, ratio, limit, verdict)
        yield "| " + " | ".join(cells) + " |"
