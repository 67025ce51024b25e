"""Values within an epoch or window, ``live/loss`` and the like, so that an hour's epoch is seen while it runs.

The training thread takes references to what was logged since the last time and, on CUDA, records an event behind the
work that makes these values: microseconds, whatever their number. The uploader's thread does the rest: on a stream of
its own, behind that event, it copies the values into pinned memory without blocking, and reads them once the copy's
event has completed. So neither thread waits for the device, and the training's stream gets no further work.
"""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.tracking.batch_values import BatchValues, NewValues
from mlflow_ddpm.tracking.epoch_statistics import finite_mean
from mlflow_ddpm.tracking.timing import unix_ms

LIVE_PREFIX = "live/"
_NAMES = ("loss", "lr", "grad_norm", "samples_per_sec")
_FOREVER_SEC = 1e300  # an int may exceed what a float can hold
_POLL_SEC, _POLL_SEC_MAX = 0.005, 5.0  # between looks at a copy's event, and until it is given up


class LiveMeter:
    """Decides when a live point is due, by ``time.monotonic``, and takes what it is made of.

    ``every_sec`` is 0 where none is wanted; each of ``world_size`` processes is taken to have as many samples as this.
    """

    def __init__(self, every_sec: float, world_size: int) -> None:
        if isinstance(every_sec, bool) or not isinstance(every_sec, int | float) or not 0 <= every_sec < _FOREVER_SEC:
            raise UsageError(f"live_every_sec must be a number of seconds >= 0, 0 for no points, got {every_sec!r}")
        self.every_sec, self._world_size = every_sec or math.inf, world_size
        self.due = math.inf
        self._began = self._paused_sec = 0.0
        self._samples = 0

    def open(self) -> None:
        """An epoch or window begins: an interval with it, so that what is shorter than one has no live point."""
        self._began = time.monotonic()
        self.due = self._began + self.every_sec
        self._paused_sec, self._samples = 0.0, 0

    def take(self, batches: BatchValues, step: int, paused_sec: float) -> LiveReading:
        """Return what was logged since the last time, unread. ``paused_sec``: the seconds left out since the start."""
        loss, grad_norm, lr, samples = batches.take_new()
        now = time.monotonic()
        elapsed, rate = now - self._began - (paused_sec - self._paused_sec), None
        if samples is not None and elapsed > 0:
            rate = (samples - self._samples) * self._world_size / elapsed
            self._samples = samples
        self._began, self._paused_sec = now, paused_sec
        return LiveReading(step, loss, grad_norm, lr, rate)


class LiveReading:
    """What was logged since the last live point. Made on the training thread, read on the uploader's.

    ``step`` counts the steps, or batches, of the whole run; ``lr`` may be a 0-d tensor.
    """

    def __init__(self, step: int, loss: NewValues, grad_norm: NewValues, lr: Any, rate: float | None) -> None:
        self._step, self._samples_per_sec = step, rate
        self._new = (loss, NewValues((), () if lr is None else (lr,), 1), grad_norm)
        self._events: dict[Any, Any] = {}
        for new in self._new:
            value: Any = new.tail[-1] if new.tail else new.chunks[-1].values if new.chunks else None
            if getattr(value, "is_cuda", False) and value.device not in self._events:
                import torch

                # Behind everything that the device was given so far; microseconds, and no wait.
                self._events[value.device] = torch.cuda.current_stream(value.device).record_event()

    def points(self) -> list[Point]:
        """Return the points: means over finite values; NaN where none is finite; none of what was not logged.

        It waits for the copies, at most five seconds each; values on another kind of device than CPU and CUDA, or on
        a device where nothing newest was, are left out.
        """
        timestamp_ms = unix_ms()
        values = (*(finite_mean(self._numbers(new)) for new in self._new), self._samples_per_sec)
        named = zip(_NAMES, values, strict=True)
        return [Point(LIVE_PREFIX + name, mean, timestamp_ms, self._step) for name, mean in named if mean is not None]

    def _numbers(self, new: NewValues) -> array[float]:
        """Return the values as host numbers, those of one kind together."""
        numbers: array[float] = array("d")
        for kind, parts in new.by_kind().items():
            if kind is float:
                for part in parts:
                    numbers.extend(part if isinstance(part, array) else [part])
            elif kind[1].type == "cpu":
                numbers.extend(_joined(parts).double().tolist())
            elif kind[1] in self._events:
                numbers.extend(_copy(kind[1], self._events[kind[1]], parts))
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
