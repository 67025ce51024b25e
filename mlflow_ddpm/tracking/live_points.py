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
from collections.abc import Iterable
from typing import Any

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.tracking.batch_values import BatchValues, NewValues, Taken
from mlflow_ddpm.tracking.epoch_statistics import finite_mean
from mlflow_ddpm.tracking.timing import unix_ms

LIVE_PREFIX = "live/"
_NAMES = ("loss", "lr", "grad_norm", "samples_per_sec")
_POLL_SEC, _POLL_SEC_MAX = 0.005, 5.0  # between looks at a copy's event, and until it is given up


class LiveMeter:
    """Decides when a live point is due, by ``time.monotonic``, and takes what it is made of.

    ``every_sec`` is 0 where none is wanted; each of ``world_size`` processes is taken to have as many samples as this.
    """

    def __init__(self, every_sec: float, world_size: int) -> None:
        if isinstance(every_sec, bool) or not isinstance(every_sec, int | float) or not 0 <= every_sec < math.inf:
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

    def __init__(self, step: int, loss: Taken, grad_norm: Taken, lr: Any, samples_per_sec: float | None) -> None:
        self._step = step
        self._values = (loss, lr, grad_norm, samples_per_sec)
        self._events: dict[Any, Any] = {}
        newest = [tail[-1] if tail else chunks[-1].values for chunks, tail, *_ in (loss, grad_norm) if tail or chunks]
        for value in (*newest, lr):
            if getattr(value, "is_cuda", False) and value.device not in self._events:
                self._events[value.device] = _event_of(value.device)

    def points(self) -> list[Point]:
        """Return the points: means over finite values; NaN where none is finite; none of what was not logged.

        It waits for the copies, at most five seconds each; values on another kind of device than CPU and CUDA, or on
        a device where nothing newest was, are left out.
        """
        timestamp_ms = unix_ms()
        means = ((name, self._mean(value)) for name, value in zip(_NAMES, self._values, strict=True))
        return [Point(LIVE_PREFIX + name, mean, timestamp_ms, self._step) for name, mean in means if mean is not None]

    def _mean(self, value: Any) -> float | None:
        if value is None or isinstance(value, float):
            return value
        new = NewValues(*value) if isinstance(value, tuple) else NewValues((), (value,), 1)
        numbers: array[float] = array("d")
        for device, values in _by_device(new).items():
            if device is None or device.type == "cpu":  # None: numbers of the host
                numbers.extend(_numbers(values.parts()))
            elif device in self._events:
                numbers.extend(_copy(device, self._events[device], values))
        return finite_mean(numbers)


def _by_device(new: NewValues) -> dict[Any, NewValues]:
    """Return the values of each device by itself: a loop may log numbers and tensors."""
    devices = {getattr(chunk.values, "device", None) for chunk in new.chunks}
    tail = [(getattr(value, "device", None), value) for value in new.new_tail]
    devices.update(place for place, _ in tail)
    if len(devices) == 1:
        return {devices.pop(): new}
    split = {}
    for device in devices:
        chunks = [chunk for chunk in new.chunks if getattr(chunk.values, "device", None) == device]
        values = [value for place, value in tail if place == device]
        split[device] = NewValues(chunks, values, len(values), max(new.start, new.tail_start), new.start)
    return split


def _numbers(parts: Iterable[Any]) -> array[float]:
    """Return parts in the host's memory as numbers."""
    numbers: array[float] = array("d")
    for part in parts:
        numbers.extend(part if isinstance(part, array) else part.double().tolist())
    return numbers


def _event_of(device: Any) -> Any:
    """Return an event behind everything that the device was given so far; microseconds, and no wait."""
    import torch

    return torch.cuda.current_stream(device).record_event()


_streams: dict[Any, Any] = {}  # of the uploader, by device
_unfinished: list[Any] = []  # copies that took too long: their memory must not be given away while they may still run


def _copy(device: Any, event: Any, new: NewValues) -> Iterable[float]:
    """Return the values on a CUDA device, copied on a stream of our own; nothing if the device takes too long."""
    import torch

    stream = _streams.get(device) or _streams.setdefault(device, torch.cuda.Stream(device))
    with torch.cuda.stream(stream):
        stream.wait_event(event)
        on_device = new.parts()
        on_host = [torch.empty(part.shape, dtype=part.dtype, pin_memory=True) for part in on_device]
        for target, part in zip(on_host, on_device, strict=True):
            target.copy_(part, non_blocking=True)
        copied = stream.record_event()
    deadline = time.monotonic() + _POLL_SEC_MAX
    while not copied.query():
        if time.monotonic() > deadline:
            _unfinished.append((new, on_device, on_host))
            return ()
        time.sleep(_POLL_SEC)
    return _numbers(on_host)
