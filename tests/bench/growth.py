"""Whether the ten-thousandth epoch costs more than the tenth, and what a row holds in memory."""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from ends import one_end
from stopwatches import Effort, in_turn
from stores import fresh_sqlite, refusing_uri
from table import Row, at_most, microseconds

from mlflow_ddpm import EpochMetrics, MetricsTracker
from mlflow_ddpm.storage.csv_file import render_csv
from mlflow_ddpm.storage.json_file import encode_row
from mlflow_ddpm.storage.layout import CSV_NAME

__all__ = ["made_up_rows", "measure"]

_GROWTH, _ROW_GROWTH = 1.2, 1.1


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of point 3."""
    yield from _late_beside_early(effort)
    yield _memory(effort)


def made_up_rows(count: int) -> list[EpochMetrics]:
    """Return a long run's rows, every metric measured."""
    return [
        EpochMetrics(
            epoch=k,
            nonfinite_batches=0,
            logged_at_ms=1_700_000_000_000 + k,
            **dict.fromkeys(_FLOATS, 0.1 + k / 7),  # type: ignore[arg-type]
        )
        for k in range(count)
    ]


_FLOATS = [
    *("loss_mean", "loss_std", "loss_min", "loss_max", "loss_median", "lr", "grad_norm", "samples_per_sec"),
    *("batches_per_sec", "gpu_allocated_mb", "gpu_reserved_mb", "gpu_peak_mb", "ema_delta_norm"),
    *("epoch_time_sec", "cumulative_time_sec"),
]


def _tracker_at(effort: Effort, epoch: int) -> MetricsTracker:
    """Return a tracker that goes on after so many epochs; its store is away, so that files alone are measured."""
    directory: Path = effort.place / f"at-{epoch}"
    directory.mkdir()
    (directory / CSV_NAME).write_bytes(render_csv(made_up_rows(epoch)))
    return MetricsTracker(directory, tracking_uri=refusing_uri())


def _late_beside_early(effort: Effort) -> Iterator[Row]:
    many = effort.of(10_000, 100)
    early, late = _tracker_at(effort, 10), _tracker_at(effort, many)
    spent: dict[str, list[float]] = {"early": [], "late": []}

    def end(name: str, tracker: MetricsTracker) -> float:
        time.sleep(effort.of(4, 0) / 1000)
        spent[name].append(one_end(tracker))
        return spent[name][-1]

    pair = in_turn(lambda: end("late", late), lambda: end("early", early), effort.of(1500, 2))
    mean_late, mean_early = statistics.fmean(spent["late"]), statistics.fmean(spent["early"])
    for tracker in (early, late):
        tracker.close(timeout=0.1)
    us, beside = microseconds(pair.subject), microseconds(pair.baseline)
    what = f"`end_epoch` at epoch {many:,}, JSON being written, beside epoch 10"
    yield Row(3, f"{what}: median", us, beside, pair.ratio, at_most(_GROWTH, pair.ratio))
    ratio = mean_late / mean_early
    yield Row(3, f"{what}: mean", microseconds(mean_late), microseconds(mean_early), ratio, at_most(_GROWTH, ratio))


def _memory(effort: Effort) -> Row:
    """Compare a tracker's growth with that of a plain list of the same rows and their JSON."""
    count = effort.of(3000, 50)
    with MetricsTracker(effort.place / "imports", tracking_uri=fresh_sqlite(effort, "imports")) as first:
        one_end(first)  # what its threads import is no row's
    tracker = MetricsTracker(effort.place / "memory", tracking_uri=refusing_uri())
    for _ in range(10):
        one_end(tracker)
    tracemalloc.start()
    try:
        start = tracemalloc.get_traced_memory()[0]
        for _ in range(count):
            one_end(tracker)
        tracker.flush(timeout=0.05)  # the JSON of every row is made
        time.sleep(effort.of(1, 0))
        gc.collect()  # what threads work with, or waits to be freed, is no growth
        grown = (tracemalloc.get_traced_memory()[0] - start) / count
        start = tracemalloc.get_traced_memory()[0]
        rows = [_copy(row) for row in tracker._recorder.rows[:count]]
        lines = [encode_row(row) for row in rows]
        plain = (tracemalloc.get_traced_memory()[0] - start) / len(lines)
    finally:
        tracemalloc.stop()
    tracker.close(timeout=0.1)
    what = "memory a tracker grows by with each epoch, beside a list of the same rows and one of their JSON"
    ratio = grown / plain
    return Row(3, what, f"{grown:,.0f} B", f"{plain:,.0f} B", ratio, at_most(_ROW_GROWTH, ratio))


def _copy(row: EpochMetrics) -> EpochMetrics:
    """Return an equal row that shares no float with it."""
    values = {k: None if v is None else type(v)(repr(v)) for k, v in row.values().items()}
    return EpochMetrics(**values, logged_at_ms=int(str(row.logged_at_ms)))  # type: ignore[arg-type]
