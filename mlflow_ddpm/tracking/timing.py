"""An epoch's seconds, with the device's queued work counted where it belongs."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from mlflow_ddpm.tracking import probes


def unix_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def rate(count: int | None, seconds: float) -> float | None:
    """Return the count per second; None if either was not measured."""
    return count / seconds if count is not None and seconds > 0 else None


class EpochTimer:
    """Measures from :meth:`start` to :meth:`stop`, less what was paused; waits for the device at each of them.

    Attributes:
        paused_sec: the seconds that were left out so far.
    """

    def __init__(self, clock: Callable[[], float], device: Any) -> None:
        self._clock, self._device = clock, device
        self._began = self.paused_sec = self._pause_began = 0.0
        self._pauses = 0  # that are open, each within the one before

    def start(self) -> None:
        """Begin anew; a pause that is open then lasts from here."""
        self.paused_sec = 0.0
        self._began = self._pause_began = self._now()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what happens inside."""
        if not self._pauses:
            self._pause_began = self._now()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self.paused_sec += self._now() - self._pause_began

    def stop(self) -> float:
        """Return the seconds, up to a pause that is open."""
        now = self._now()
        return (self._pause_began if self._pauses else now) - self._began - self.paused_sec

    def _now(self) -> float:
        probes.synchronize(self._device)
        return self._clock()


class AccumulatingTimer:
    """Adds up the host's seconds inside ``with``. It waits for no device: work that is only queued costs little."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = self._sum = 0.0

    def __enter__(self) -> None:
        self._began = self._clock()

    def __exit__(self, *_: object) -> None:
        self._sum += self._clock() - self._began

    def take(self) -> float:
        """Return the seconds since the last call, and start from zero."""
        taken, self._sum = self._sum, 0.0
        return taken
