"""Values within an epoch or window, ``live/loss`` and the like, so that an hour's epoch is seen while it runs.

The training thread notes how much was logged so far and, on CUDA, records an event behind the work that makes these
values: microseconds, whatever their number. The uploader's thread does the rest: on a stream of its own, behind that
event, it copies the values into pinned memory without blocking, and reads them once the copy's event has completed. So
neither thread waits for the device, and the training's stream gets no further work.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.tracking.batch_values import BatchValues, SoFar, new_by_kind
from mlflow_ddpm.tracking.epoch_statistics import finite_mean
from mlflow_ddpm.tracking.timing import unix_ms

LIVE_PREFIX = "live/"
LiveReading: TypeAlias = Callable[[], list[Point]]  # called on the uploader's thread
_NAMES = ("loss", "lr", "grad_norm", "samples_per_sec")
_FOREVER_SEC = 1e300  # an int may exceed what a float can hold
_POLL_SEC, _POLL_SEC_MAX = 0.005, 5.0  # between looks at a copy's event, and until it is given up


class LiveMeter:
    """Decides when a live point is due, by ``time.monotonic``, and notes what it is made of.

    ``every_sec`` is 0 where none is wanted; each of ``world_size`` processes is taken to have as many samples as this.
    """

    def __init__(self, every_sec: float, world_size: int) -> None:
        if isinstance(every_sec, bool) or not isinstance(every_sec, int | float) or not 0 <= every_sec < _FOREVER_SEC:
            raise UsageError(f"live_every_sec must be a number of seconds >= 0, 0 for no points, got {every_sec!r}")
        self._every_sec, self._world_size = every_sec or math.inf, world_size
        self.due = math.inf
        self._reader = _Reader(0.0, world_size)

    def open(self) -> None:
        """An epoch or window begins: an interval with it, so that what is shorter than one has no live point."""
        began = time.monotonic()
        self.due = began + self._every_sec
        self._reader = _Reader(began, self._world_size)

    def take(self, batches: BatchValues, step: int, paused_sec: float) -> LiveReading:
        """Note what was logged so far, unread, and return what makes points of it on another thread.

        ``step`` counts the steps, or batches, of the whole run; ``paused_sec`` was left out since the start. Called
        seldom, it finds the processor's caches cold: each object and call that it needs costs about a microsecond.
        """
        now = time.monotonic()
        self.due = now + self._every_sec
        (_, losses, _, _), (_, grad_norms, _, _), lr, _ = so_far = batches.so_far()
        loss = losses[-1]
        events: dict[Any, Any] = {}
        for newest in (loss, grad_norms[-1] if grad_norms else loss, loss if lr is None else lr):
            if type(newest) is not float and newest.is_cuda and newest.device not in events:
                import torch

                # Behind everything that the device was given so far; microseconds, and no wait.
                events[newest.device] = torch.cuda.current_stream(newest.device).record_event()
        return partial(self._reader.points, step, now - paused_sec, so_far, events)


class _Reader:
    """Reads one epoch or window on the uploader's thread, each value once."""

    def __init__(self, began_sec: float, world_size: int) -> None:
        self._world_size = world_size
        self._active_sec = began_sec  # when the last reading was made, less all pauses
        self._losses = self._grad_norms = self._samples = 0  # that were read

    def points(self, step: int, active_sec: float, so_far: SoFar, events: Mapping[Any, Any]) -> list[Point]:
        """Return the points: means over finite values since the last reading; NaN where every one is infinite or NaN.

        There is no point of what was not logged. It waits for the copies, at most five seconds each; values on another
        kind of device than CPU and CUDA, or on a device where nothing newest was, are left out.
        """
        loss, grad_norm, lr, samples = so_far
        timestamp_ms = unix_ms()
        new_losses, self._losses = new_by_kind(loss, self._losses)
        new_norms, self._grad_norms = new_by_kind(grad_norm, self._grad_norms)
        new_lr, _ = new_by_kind(((), () if lr is None else (lr,), 0, 1), 0)
        means = (finite_mean(_numbers(kinds, events)) for kinds in (new_losses, new_lr, new_norms))
        named = zip(_NAMES, (*means, self._rate(active_sec, samples)), strict=True)
        return [Point(LIVE_PREFIX + name, value, timestamp_ms, step) for name, value in named if value is not None]

    def _rate(self, active_sec: float, samples: int | None) -> float | None:
        """Return the samples a second since the last reading, of all processes."""
        elapsed, self._active_sec = active_sec - self._active_sec, active_sec
        if not samples or elapsed <= 0:
            return None
        new, self._samples = samples - self._samples, samples
        return new * self._world_size / elapsed


def _numbers(kinds: Mapping[Any, Sequence[Any]], events: Mapping[Any, Any]) -> array[float]:
    """Return the values as host numbers, those of one kind together."""
    numbers: array[float] = array("d")
    for kind, parts in kinds.items():
        if kind is float:
            for part in parts:
                numbers.extend(part if isinstance(part, array) else [part])
        elif kind[1].type == "cpu":
            numbers.extend(_joined(parts).double().tolist())
        elif kind[1] in events:
            numbers.extend(_copy(kind[1], events[kind[1]], parts))
    return numbers


def _joined(tensors: Iterable[Any]) -> Any:
    import torch

    return torch.cat([tensor.reshape(-1) for tensor in tensors])


_streams: dict[Any, Any] = {}  # of the uploader, by device
_unfinished: list[Any] = []  # copies that took too long: their memory must not be given away while they may still run


def _copy(device: Any, event: Any, tensors: Sequence[Any]) -> list[float]:
    """Return the values on a CUDA device, copied on a stream of our own; nothing if the device takes too long."""
    import torch

    stream = _streams.get(device) or _streams.setdefault(device, torch.cuda.Stream(device))
    with torch.cuda.stream(stream):
        stream.wait_event(event)
        on_device = _joined(tensors)
        on_host = torch.empty(on_device.shape, dtype=on_device.dtype, pin_memory=True)
        on_host.copy_(on_device, non_blocking=True)
        copied = stream.record_event()
    deadline = time.monotonic() + _POLL_SEC_MAX
    while not copied.query():
        if time.monotonic() > deadline:
            _unfinished.append((tensors, on_device, on_host))
            return []
        time.sleep(_POLL_SEC)
    numbers: list[float] = on_host.double().tolist()
    return numbers
