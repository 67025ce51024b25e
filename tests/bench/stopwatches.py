"""Timing two things in turn, so that a noisy neighbour slows both; and how much effort a run of the suite takes."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

__all__ = ["Effort", "Pair", "compare", "in_turn", "memory_mib", "reset_memory_peak"]

Clock = Callable[[], float]


class Effort(NamedTuple):
    """Full counts, or tiny ones that show that everything runs."""

    quick: bool
    place: Path  # a fresh directory, on the disk that is measured

    def of(self, full: int, quick: int) -> int:
        """Choose a count."""
        return quick if self.quick else full


class Pair(NamedTuple):
    """Seconds of subject and baseline, medians over the repeats; the ratio is the median of the repeats' ratios."""

    subject: float
    baseline: float
    ratio: float


def in_turn(
    subject: Callable[[], float], baseline: Callable[[], float], repeats: int, *, is_warm: bool = False
) -> Pair:
    """Take a figure of each in turn, the order changing from repeat to repeat (ABBA), after one unused try of both.

    ``is_warm``: both have been tried, or it does not matter.
    """
    if not is_warm:
        subject(), baseline()
    pairs = []
    for repeat in range(repeats):
        if repeat % 2:
            beside = baseline()
            pairs.append((subject(), beside))
        else:
            pairs.append((subject(), baseline()))
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    return Pair(medians[0], medians[1], statistics.median(s / b for s, b in pairs))


def compare(
    subject: Callable[[], object],
    baseline: Callable[[], object],
    *,
    repeats: int,
    calls: int = 1,
    clock: Clock = time.perf_counter,
    is_warm: bool = False,
) -> Pair:
    """Time ``calls`` calls of each, in turn; seconds are those of one call."""
    return in_turn(_timed(subject, calls, clock), _timed(baseline, calls, clock), repeats, is_warm=is_warm)


def _timed(work: Callable[[], object], calls: int, clock: Clock) -> Callable[[], float]:
    def once() -> float:
        began = clock()
        for _ in range(calls):
            work()
        return (clock() - began) / calls

    return once


def memory_mib(field: str = "VmRSS") -> float:
    """Return this process's resident memory, or with ``VmHWM`` its peak, in MiB; Linux alone tells."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1024


def reset_memory_peak() -> None:
    """Let ``VmHWM`` start anew from here."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
