"""``log_batch``: what a call costs beside a flushed CSV line, and what a million of them hold in memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lines import CsvLine
from stopwatches import Effort, compare, in_turn, memory_mib, reset_memory_peak
from stores import fresh_sqlite
from table import Row, at_most, microseconds

from mlflow_ddpm import MetricsTracker

__all__ = ["measure"]

_LIMIT_SEC, _SHARE_OF_A_LINE = 3e-6, 1 / 7
_MILLION_MIB = 100e6 / 2**20


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of point 1."""
    calls = effort.of(4000, 20)
    with MetricsTracker(effort.place / "batches", tracking_uri=fresh_sqlite(effort, "batches")) as tracker:
        yield from _call(effort, tracker, "floats", lambda: [0.5 + k for k in range(calls)])
        yield from _call(effort, tracker, "0-d tensors", lambda: _losses(calls))
    for kind in ("floats", "tensors"):
        yield _million(effort, kind)


def _call(effort: Effort, tracker: MetricsTracker, kind: str, make: Callable[[], Sequence[Any]]) -> Iterator[Row]:
    with CsvLine(effort.place / "flushed.csv") as line:
        epoch = [tracker.next_epoch]
        log = in_turn(
            lambda: _one_epoch(tracker, epoch, make()),
            lambda: compare(line.flushed, _nothing, repeats=1, calls=effort.of(500, 5)).subject,
            effort.of(15, 1),
        )
    what = f"`log_batch`, {kind}, beside a flushed CSV line of 17 numbers"
    us, line_us = microseconds(log.subject), microseconds(log.baseline)
    yield Row(1, what, us, line_us, log.ratio, at_most(round(_SHARE_OF_A_LINE, 3), log.ratio))
    yield Row(1, f"`log_batch`, {kind}, a call", us, "", None, at_most(3, log.subject * 1e6, "µs"))


def _nothing() -> None:
    pass


def _losses(count: int) -> list[Any]:
    """Return losses as a step leaves them: each with a graph behind it."""
    import torch

    weight = torch.ones(3, requires_grad=True)
    warm = [(weight * k).sum() for k in range(64)]  # a loop's newest loss is in the processor's cache, too
    return [warm[k % len(warm)] for k in range(count)]


def _one_epoch(tracker: MetricsTracker, epoch: list[int], losses: Sequence[Any]) -> float:
    """Return the seconds of one call; the epoch's start and end are not in them."""
    norms = [2 * loss.detach() if hasattr(loss, "detach") else loss for loss in losses[:64]]
    norms = [norms[k % len(norms)] for k in range(len(losses))]
    tracker.start_epoch(epoch[0])
    epoch[0] += 1
    began = time.perf_counter()
    for loss, norm in zip(losses, norms, strict=True):
        tracker.log_batch(loss=loss, lr=1e-3, grad_norm=norm, batch_size=64)
    spent = time.perf_counter() - began
    tracker.end_epoch()
    tracker.flush()
    return spent / len(losses)


def _million(effort: Effort, kind: str) -> Row:
    """Measure in a process of its own, whose memory holds nothing else."""
    count = effort.of(1_000_000, 2000)
    command = [sys.executable, __file__, kind, str(count), str(effort.place)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    mib = float(told)
    each = f"{2 * 8 * count / 2**20:,.0f} MiB of numbers"
    what = f"{count:,} batches of {kind} in one epoch, `end_epoch` included: memory at its peak"
    limit = at_most(round(_MILLION_MIB, 1), mib, "MiB")
    return Row(1, what, f"{mib:,.0f} MiB", each, mib / (16 * count / 2**20), limit)


def _hold(kind: str, count: int) -> float:
    """Return how far memory rises in an epoch of so many batches."""
    import torch

    from mlflow_ddpm.tracking.batch_values import BatchValues
    from mlflow_ddpm.tracking.epoch_statistics import statistics

    def epoch(batches: int) -> None:
        values = BatchValues()
        for k in range(batches):
            loss = torch.tensor(float(k)) if kind == "tensors" else float(k)
            norm = torch.tensor(float(k)) if kind == "tensors" else float(k)
            values.add(loss, 1e-3, norm, 64)
        statistics(values.read())

    epoch(10)  # imports
    reset_memory_peak()
    before = memory_mib()
    epoch(count)
    return memory_mib("VmHWM") - before


if __name__ == "__main__":
    print(_hold(sys.argv[1], int(sys.argv[2])))
