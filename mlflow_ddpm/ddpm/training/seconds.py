"""Seconds of the host that add up over many stretches of work."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

__all__ = ["Seconds"]


class Seconds:
    """A clock that runs inside ``with``. It waits for no device: work that is only queued there costs little here."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = self._sum = 0.0

    def __enter__(self) -> None:
        self._began = self._clock()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sum += self._clock() - self._began

    def take(self) -> float:
        """Return the seconds since the last call, and start from zero."""
        taken, self._sum = self._sum, 0.0
        return taken
