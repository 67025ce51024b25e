"""The default training with the tracker, beside the same loop with a stand-in that does nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from stopwatches import Effort, Pair, in_turn
from stores import fresh_sqlite
from table import Row, at_least, at_most, not_measured, seconds
from torch.profiler import ProfilerActivity, profile

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.ddpm.config.config import Config, from_options
from mlflow_ddpm.ddpm.train import Training, prepare, train_with
from mlflow_ddpm.ddpm.training.distributed import Processes

__all__ = ["Inert", "measure", "measure_on"]

_KEPT = {"cpu": 0.99, "cuda": 0.995}
_IDLE = 1.05  # unchanged, but for what two profiles of the same loop differ by


class Inert:
    """Stands in for the tracker and does nothing."""

    run_id = None

    def start_epoch(self, epoch: int, *, partial: bool = False) -> None:
        """Do nothing."""

    def log_batch(self, loss: Any, lr: Any = None, grad_norm: Any = None, batch_size: Any = None) -> None:
        """Do nothing."""

    def paused(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()

    def log_image(self, name: str, image: Any, epoch: int) -> None:
        """Do nothing."""

    def end_epoch(self, model: Any = None, ema_model: Any = None, extra: Any = None, *, partial: bool = False) -> None:
        """Do nothing."""


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of point 7."""
    yield from measure_on(effort, "cpu")
    if torch.cuda.is_available():
        yield from measure_on(effort, "cuda")
    else:
        yield not_measured(7, "default training on a GPU, steps per second and idle time", "no CUDA device here")


def measure_on(effort: Effort, device: str) -> Iterator[Row]:
    """Yield the rows of one device."""
    tiny = {"base_channels": 8, "image_size": 8, "batch_size": 800} if effort.quick else {}
    # Drawing and judging samples is not tracking, and costs the same in both.
    config = from_options({"device": device, "epochs": 1000, "sample_every": 0, "eval_per_class": 0, **tiny}).resolve()
    torch.set_num_threads(1)
    at_once = effort.of(2, 1)
    directory = effort.place / f"whole-{device}"
    epochs = _Epochs(config, prepare(config, Processes(0, 1, torch.device(device)), directory), directory, at_once)
    with _Counted(directory, tracking_uri=fresh_sqlite(effort, f"whole-{device}"), device=device) as tracker:
        spent: dict[str, list[float]] = {"ours": [], "bare": []}
        ours, bare = (
            (lambda: epochs.train(tracker, spent["ours"])),
            (lambda: epochs.train(cast("MetricsTracker", Inert()), spent["bare"])),
        )
        wall = in_turn(ours, bare, effort.of(16, 1))
        inside = tracker.spent / (len(spent["ours"]) * at_once)
        idle = (_idle(ours), _idle(bare)) if device == "cuda" else None
        cpu = in_turn(iter(spent["ours"]).__next__, iter(spent["bare"]).__next__, len(spent["bare"]) - 1)
        noise = in_turn(bare, bare, effort.of(8, 1))
    what = f"steps per second of the default training on digits, {device}, beside the same loop without tracker"
    yield _row(f"{what}: wall clock", wall, device)
    if device == "cpu":  # for comparison: here the other cores hide nothing, and neighbours disturb less
        yield _row(f"{what}: CPU time of all threads, delivery included", cpu, device)._replace(limit=None)
    counted = Pair(wall.subject, wall.subject - inside, wall.subject / (wall.subject - inside))
    yield _row(f"{what}: counted inside the tracker's calls, which no drift disturbs", counted, device)
    yield _row("the loop without tracker beside itself: what this machine's drift alone shows", noise, device)._replace(
        limit=None
    )
    if idle:
        what = "share of an epoch in which the GPU ran no kernel, beside the same loop without tracker"
        ratio = idle[0] / idle[1]
        yield Row(7, what, f"{idle[0]:.2%}", f"{idle[1]:.2%}", ratio, at_most(_IDLE, ratio))


def _idle(train: Callable[[], object]) -> float:
    """Return the share of the time, from the first kernel's start to the last one's end, in which none ran."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        train()
        torch.cuda.synchronize()
    kernels = sorted(
        (event.time_range.start, event.time_range.end)
        for event in seen.events() or ()
        if event.device_type.name == "CUDA"
    )
    first, until = kernels[0]
    none_ran = 0.0
    for start, end in kernels:
        none_ran += max(start - until, 0.0)
        until = max(until, end)
    return float(none_ran / (until - first))


def _row(what: str, pair: Pair, device: str) -> Row:
    kept = 1 / pair.ratio
    ours, beside = f"{seconds(pair.subject)} an epoch", f"{seconds(pair.baseline)} an epoch"
    return Row(7, what, ours, beside, kept, at_least(_KEPT[device], kept))


class _Counted(MetricsTracker):
    """A tracker that counts the seconds which the training thread spends in it."""

    spent = 0.0

    def start_epoch(self, epoch: int, *, partial: bool = False) -> None:
        """Count, and do as ever."""
        with self._counting():
            super().start_epoch(epoch, partial=partial)

    def log_batch(self, loss: Any, lr: Any = None, grad_norm: Any = None, batch_size: Any = None) -> None:
        """Count, and do as ever."""
        with self._counting():
            super().log_batch(loss, lr, grad_norm, batch_size)

    def end_epoch(self, model: Any = None, ema_model: Any = None, extra: Any = None, *, partial: bool = False) -> Any:
        """Count, and do as ever."""
        with self._counting():
            return super().end_epoch(model, ema_model, extra, partial=partial)

    @contextlib.contextmanager
    def _counting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent += time.perf_counter() - began


class _Epochs:
    """One training of one model that goes on with the tracker or without: what differs is the tracker alone."""

    def __init__(self, config: Config, training: Training, directory: Path, at_once: int) -> None:
        self._config, self._training, self._directory, self._at_once = config, training, directory, at_once
        self._epoch = 0

    def train(self, tracker: MetricsTracker, cpu: list[float]) -> float:
        """Train some more epochs; note their CPU seconds and return their wall seconds."""
        end = self._epoch + self._at_once
        told = dataclasses.replace(self._config, train=dataclasses.replace(self._config.train, epochs=end))
        began, cpu_began = time.perf_counter(), time.process_time()
        train_with(tracker, self._training._replace(config=told, first_epoch=self._epoch), self._directory)
        spent = time.perf_counter() - began
        if isinstance(tracker, MetricsTracker):
            tracker.flush()
        cpu.append((time.process_time() - cpu_began) / self._at_once)
        self._epoch = end
        return spent / self._at_once
