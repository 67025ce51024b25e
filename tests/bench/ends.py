"""``end_epoch``: what it costs beside a CSV line that is on the disk, and beside one ``mlflow.log_metrics``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from lines import VALUES, CsvLine
from stopwatches import Effort, Pair, in_turn
from stores import fresh_sqlite, hanging_uri, refusing_uri
from table import Row, at_most, microseconds, seconds

from mlflow_ddpm import MetricsTracker

__all__ = ["measure", "one_end"]

_BATCHES = 20
_TO_A_LINE, _TO_LOG_METRICS = 2.0, 0.1


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of point 2 that concern one call."""
    if effort.quick:  # a tracker waits for the first answer of its store; a second shows that everything runs
        os.environ |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with ExitStack() as stack:
        fine = fresh_sqlite(effort, "ends")
        yield from _beside_a_line(effort, "a store that is fine (sqlite)", fine, rest=True)
        yield from _beside_a_line(effort, "sqlite, every call in the midst of a delivery", fine, rest=False)
        yield from _beside_a_line(effort, "a store that refuses connections", refusing_uri(), rest=False)
        hanging = stack.enter_context(hanging_uri())
        yield from _beside_a_line(effort, "a store that accepts and never answers", hanging, rest=False)
        yield _beside_log_metrics(effort)
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        os.environ.pop(name, None)


def one_end(tracker: MetricsTracker) -> float:
    """Run an epoch of 20 batches of no length; return the seconds that its end took."""
    tracker.start_epoch(tracker.next_epoch)
    for k in range(_BATCHES):
        tracker.log_batch(loss=1.0 / (k + 1), lr=1e-3, grad_norm=0.5, batch_size=64)
    began = time.perf_counter()
    tracker.end_epoch()
    return time.perf_counter() - began


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _beside_a_line(effort: Effort, store: str, uri: str, *, rest: bool) -> Iterator[Row]:
    tracker = MetricsTracker(effort.place / store.replace(" ", "-"), tracking_uri=uri)

    def subject() -> float:
        if rest:
            tracker.flush()  # as after an epoch of some length: the courier has nothing left to do
        else:
            one_end(tracker)  # wakes the courier
            time.sleep(0.002)
        return one_end(tracker)

    with CsvLine(effort.place / "synced.csv") as line:

        def baseline() -> float:
            if rest:
                tracker.flush()
            return _timed(line.synced)

        pair = in_turn(subject, baseline, effort.of(150, 2))
    tracker.close(timeout=30 if uri.startswith("sqlite") else 0.1)
    what = f"`end_epoch`, {store}, beside a CSV line with fsync"
    yield _row(what, pair, _TO_A_LINE)


def _beside_log_metrics(effort: Effort) -> Row:
    import mlflow

    mlflow.set_tracking_uri(fresh_sqlite(effort, "fluent"))
    with (
        MetricsTracker(effort.place / "ends-beside", tracking_uri=fresh_sqlite(effort, "beside")) as tracker,
        mlflow.start_run(),
    ):
        step = iter(range(10**9))

        def subject() -> float:
            tracker.flush()
            return one_end(tracker)

        def baseline() -> float:
            tracker.flush()
            return _timed(lambda: mlflow.log_metrics(VALUES, step=next(step)))

        pair = in_turn(subject, baseline, effort.of(40, 2))
    mlflow.set_tracking_uri("")
    return _row("`end_epoch`, beside one `mlflow.log_metrics` of 17 values on sqlite", pair, _TO_LOG_METRICS)


def _row(what: str, pair: Pair, bound: float) -> Row:
    return Row(2, what, microseconds(pair.subject), seconds(pair.baseline), pair.ratio, at_most(bound, pair.ratio))
