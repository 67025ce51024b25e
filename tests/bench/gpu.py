"""Everything that needs a CUDA device, in one table: ``python tests/bench/run.py --gpu``, at most eight minutes.

On a machine without one, what a CPU can run runs there, which shows that the parts work, and the rest is not measured.
A part that fails is a row that tells why; the others follow.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import norms
import torch
import unet
import whole_run
from stopwatches import Effort
from stores import fresh_sqlite
from table import Limit, Row, at_most, microseconds, not_measured

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.ddpm.config.config import from_options
from mlflow_ddpm.ddpm.train import prepare, train_with
from mlflow_ddpm.ddpm.training.distributed import Processes
from mlflow_ddpm.ddpm.training.memory_estimate import estimate_memory

__all__ = ["measure"]

_BATCH_SEC, _COPY_SEC = 3e-6, 30e-6
_STEPS, _STEPS_AN_EPOCH = 200, 8  # of digits, in batches of 256
_TIME_SEC = 400.0  # after which no further part begins
_MEMORY_FACTOR = 2.0  # by which the dry run's estimate may be off
_ROOT = Path(__file__).parents[2]
_MIB = 2**20

Part = Callable[[Effort, str], Iterator[Row]]


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of point 8 of issue 13."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "no CUDA device here; what a CPU can run runs on it"
    yield Row("13.8", f"device, torch {torch.__version__}", name, "", None, None)
    parts: dict[str, Part] = {
        "log_batch and the live copy": _batches,
        "sync debug mode over the real pipeline": _sync_debug,
        "EMA distance and gradient norm": _norms,
        "steps and idle time with and without tracker": _loop,
        "steps per second beside diffusers' `UNet2DModel`": _beside_diffusers,
        "`gpu` preset, and the dry run's memory": _preset,
        "one process of a group": _group,
    }
    began = time.monotonic()
    for what, part in parts.items():
        if time.monotonic() - began > _TIME_SEC:
            yield not_measured("13.8", what, "the time is up")
            continue
        try:
            yield from part(effort, device)
        except Exception as error:  # noqa: BLE001 - the other parts are worth having
            yield not_measured("13.8", what, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _batches(effort: Effort, device: str) -> Iterator[Row]:
    calls, copies = effort.of(4000, 20), effort.of(60, 3)
    loss, norm = (torch.rand((), device=device) for _ in range(2))
    uri = fresh_sqlite(effort, "gpu-batches")
    with MetricsTracker(effort.place / "gpu-batches", tracking_uri=uri, device=device) as tracker:
        live = tracker._rows.live
        tracker.start_epoch(0)
        ordinary, copying = [], []
        for _ in range(copies):
            began = time.perf_counter()
            for _ in range(calls):
                tracker.log_batch(loss, lr=1e-3, grad_norm=norm, batch_size=64)
            ordinary.append((time.perf_counter() - began) / calls)
            live.due = 0.0
            began = time.perf_counter()
            tracker.log_batch(loss, lr=1e-3, grad_norm=norm, batch_size=64)
            copying.append(time.perf_counter() - began)
            _wait_until_sent(tracker)
        tracker.end_epoch()
        tracker.flush()
    for what, times, bound in (
        ("`log_batch`, a call", ordinary, _BATCH_SEC),
        (f"`log_batch` that starts a live copy, after {calls:,} batches", copying, _COPY_SEC),
    ):
        value = statistics.median(times)
        yield Row("13.4", f"{what}, 0-d tensors, {device}", microseconds(value), "", None, _us(bound, value))


def _wait_until_sent(tracker: MetricsTracker) -> None:
    """Wait until the uploader has sent the live point and rests, as it does in the half minute between two."""
    uploader: Any = tracker._recorder._uploader  # type: ignore[union-attr]
    uploader._row_lane.work_until(lambda: not uploader._live, 10.0)
    deadline = time.monotonic() + 10.0
    while uploader._row_lane.busy_sec >= 0 and time.monotonic() < deadline:
        time.sleep(0.01)


def _us(bound: float, value: float) -> Limit:
    return at_most(round(bound * 1e6, 1), value * 1e6, "µs")


def _sync_debug(effort: Effort, device: str) -> Iterator[Row]:
    """Run the tests that let torch itself raise where the host would wait for the device."""
    what = "tests in sync debug mode: the real pipeline, a loop of one's own, live points"
    if device == "cpu":
        yield not_measured("13.8", what, "no CUDA device here")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "gpu", "-p", "no:cacheprovider", "tests/tracking"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=_ROOT, timeout=180)
    last = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
    failed = sum(map(int, re.findall(r"(\d+) (?:failed|error)", last))) if done.returncode in (0, 1) else 1
    yield Row("13.8", what, last.strip("= "), "", None, at_most(0, failed, "failures"))


def _norms(effort: Effort, device: str) -> Iterator[Row]:
    yield from norms.measure_on(effort, device)


def _loop(effort: Effort, device: str) -> Iterator[Row]:
    yield from whole_run.measure_on(effort, device)


def _beside_diffusers(effort: Effort, device: str) -> Iterator[Row]:
    yield from unet.measure_on_gpu(effort)


def _preset(effort: Effort, device: str) -> Iterator[Row]:
    """Train the ``gpu`` preset; a CPU trains a tiny model for two epochs."""
    what = f"`gpu` preset on digits, {_STEPS} steps: steps per second"
    epochs = _STEPS // _STEPS_AN_EPOCH if device == "cuda" and not effort.quick else 2
    tiny = {} if device == "cuda" else {"base_channels": 8, "image_size": 8, "batch_size": 800}
    options = {"preset": "gpu", "device": device, "epochs": epochs, "sample_every": 0, "eval_per_class": 0, **tiny}
    config, directory = from_options(options).resolve(), effort.place / "gpu-preset"
    target = torch.device(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    training = prepare(config, Processes(0, 1, target), directory)
    uri = fresh_sqlite(effort, "gpu-preset")
    with MetricsTracker(directory, tracking_uri=uri, device=device) as tracker:
        row = train_with(tracker, training, directory).last_row
    if row is None:
        raise RuntimeError("the training made no row")
    yield Row("13.8", f"{what}, in its last epoch, {device}", f"{row.batches_per_sec:,.1f}", "", None, None)
    what = "peak memory of the real training beside the dry run's estimate"
    if device == "cpu":
        yield not_measured("13.8", what, "no CUDA device here; tests/ddpm/test_dry_run.py compares on a CPU")
        return
    real = torch.cuda.max_memory_allocated() - before
    images = training.dataset.train.nbytes + training.dataset.test.nbytes
    classes = len(training.dataset.class_names)
    expected = estimate_memory(config, classes, images, processes=1, device=target).total
    ratio = real / expected
    limit = at_most(_MEMORY_FACTOR, max(ratio, 1 / ratio))
    yield Row("13.8", what, f"{real / _MIB:,.0f} MiB", f"{expected / _MIB:,.0f} MiB", ratio, limit)


def _group(effort: Effort, device: str) -> Iterator[Row]:
    """Record an epoch in a group of one process that reduces over ranks: NCCL's collectives, or gloo's on a CPU."""
    backend = "nccl" if device == "cuda" else "gloo"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "WORLD_SIZE": "1"}
    env |= {"LOCAL_RANK": "0"}
    place = (str(effort.place / "gpu-group"), fresh_sqlite(effort, "gpu-group"))
    command = [sys.executable, "-c", _GROUP_OF_ONE, backend, device, *place]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    what = f"an epoch in a group of one process, {backend}: loss after a collective, beside the expected"
    loss = float(done.stdout.split()[-1])
    yield Row("13.8", what, f"{loss:g}", "2", loss / 2, at_most(0, abs(loss - 2), ""))


_GROUP_OF_ONE = """
import sys, torch, torch.distributed as dist
from mlflow_ddpm import MetricsTracker
backend, device, directory, uri = sys.argv[1:]
dist.init_process_group(backend)
losses = torch.tensor([1.0, 2.0, 3.0], device=device)
dist.all_reduce(losses)
with MetricsTracker(directory, tracking_uri=uri, device=device) as tracker:
    tracker._peers.reduces = True  # one process, which by itself would leave the collective out
    tracker.start_epoch(0)
    for loss in losses:
        tracker.log_batch(loss, batch_size=8)
    row = tracker.end_epoch()
dist.destroy_process_group()
print(row.loss_mean)
"""
