"""A loop of 10 ms steps with an epoch every 20 steps: how much of its bare speed is left while rows are delivered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
from stopwatches import Effort, in_turn
from stores import Server, fresh_sqlite
from table import Row, at_least, seconds

from mlflow_ddpm import MetricsTracker

__all__ = ["measure"]

_STEP_SEC, _STEPS = 0.010, 20
_KEPT = 0.97


def measure(effort: Effort, server: Server) -> Iterator[Row]:
    """Yield the rows of point 2 that concern a whole loop."""
    step = _calibrated_step()
    yield _loop(effort, "sqlite", fresh_sqlite(effort, "steps"), step)
    yield _loop(effort, "an `mlflow server`", server.uri(), step)


def _calibrated_step() -> Callable[[], None]:
    """Return about 10 ms of matrix products and element-wise functions, which let go of the interpreter's lock."""
    rng = np.random.default_rng(0)
    weights, x = rng.standard_normal((192, 192), dtype=np.float32), rng.standard_normal((192, 192), dtype=np.float32)

    def layers(count: int) -> None:
        h = x
        for _ in range(count):
            h = np.tanh(h @ weights)

    count = 50
    for _ in range(4):  # the first ones wake the processor, and find the number that the last one confirms
        began = time.perf_counter()
        layers(10 * count)
        count = max(1, round(10 * count * _STEP_SEC / (time.perf_counter() - began)))
    return lambda: layers(count)


def _loop(effort: Effort, store: str, uri: str, step: Callable[[], None]) -> Row:
    steps, bare_epochs = effort.of(_STEPS, 2), effort.of(25, 1)
    epochs = effort.of(55, 1)  # eleven seconds: longer than a courier rests, so that a delivery is in each

    def bare() -> float:
        tracker.flush()
        began = time.perf_counter()
        for _ in range(bare_epochs * steps):
            step()
        return (time.perf_counter() - began) / (bare_epochs * steps)

    def tracked() -> float:
        epoch()  # its row is under way when the clock starts, as every later one is when the next epoch starts
        began = time.perf_counter()
        for _ in range(epochs):
            epoch()
        return (time.perf_counter() - began) / (epochs * steps)

    def epoch() -> None:
        tracker.start_epoch(tracker.next_epoch)
        for k in range(steps):
            step()
            tracker.log_batch(loss=1.0 / (k + 1), lr=1e-3, grad_norm=0.5, batch_size=64)
        tracker.end_epoch()

    with MetricsTracker(effort.place / f"steps-{len(uri)}", tracking_uri=uri) as tracker:
        tracker.flush()
        pair = in_turn(tracked, bare, effort.of(5, 1))
    kept = 1 / pair.ratio
    what = f"speed of a loop of 10 ms numpy steps, an epoch every {_STEPS}, delivering to {store}, beside the bare loop"
    ours, beside = f"{seconds(pair.subject)} a step", f"{seconds(pair.baseline)} a step"
    return Row(2, what, ours, beside, kept, at_least(_KEPT, kept))
