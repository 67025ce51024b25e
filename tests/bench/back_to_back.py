"""Rows without work between, beside CSV lines with fsync; a whole run beside `mlflow.log_metrics` and its floor."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator

from ends import one_end
from lines import VALUES, CsvLine
from stopwatches import Effort  # noqa: TC002 - as the other parts do
from stores import fresh_sqlite
from table import Row, at_most, microseconds, seconds

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.storage.mlflow_run import METRICS_PER_BATCH
from mlflow_ddpm.storage.recovery import read_rows

__all__ = ["measure"]

_CONSTRUCTION_SEC, _MEDIAN, _P99, _WHOLE, _TO_FLOOR = 0.3, 1.5, 4.0, 0.2, 1.2


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of point 7 of issue 13."""
    count = effort.of(1000, 20)
    uri = fresh_sqlite(effort, "back-to-back")
    began = time.perf_counter()
    tracker = MetricsTracker(effort.place / "back-to-back", tracking_uri=uri)
    construction = time.perf_counter() - began
    ends: list[float] = []
    lines: list[float] = []
    with CsvLine(effort.place / "back-to-back.csv") as line:
        for _ in range(count):  # in turn, so that a noisy neighbour slows both
            ends.append(one_end(tracker))
            before = time.perf_counter()
            line.synced()
            lines.append(time.perf_counter() - before)
    tracker.close(timeout=120)
    limit = at_most(_CONSTRUCTION_SEC, construction, "s")
    yield Row("13.7", "construction, sqlite, imports done", seconds(construction), "", None, limit)
    for name, bound, share in (("median", _MEDIAN, 50), ("p99", _P99, 99)):
        subject, beside = (statistics.quantiles(times, n=100)[share - 1] for times in (ends, lines))
        what = f"`end_epoch`, {count} epochs back to back, {name}, beside a CSV line with fsync"
        ratio = subject / beside
        yield Row("13.7", what, microseconds(subject), microseconds(beside), ratio, at_most(bound, ratio))
    yield from _whole_run(effort, count)


def _whole_run(effort: Effort, count: int) -> Iterator[Row]:
    import mlflow

    began = time.perf_counter()
    with MetricsTracker(effort.place / "whole", tracking_uri=fresh_sqlite(effort, "whole")) as tracker:
        for _ in range(count):
            one_end(tracker)
    subject = time.perf_counter() - began
    before = dict(os.environ)
    mlflow.set_tracking_uri(fresh_sqlite(effort, "whole-fluent"))
    began = time.perf_counter()
    with mlflow.start_run():
        for step in range(count):
            mlflow.log_metrics(VALUES, step=step)
    baseline = time.perf_counter() - began
    mlflow.set_tracking_uri("")
    os.environ.clear()
    os.environ.update(before)
    what, floor = f"opening, {count} rows and closing, sqlite, beside", _floor(effort)
    for beside, sec, bound in (
        ("`mlflow.log_metrics` of 17 values", baseline, _WHOLE),
        ("its floor: a bare `log_batch` of the same points, 1,000 a request, and the CSV lines", floor, _TO_FLOOR),
    ):
        ratio = subject / sec
        yield Row("13.7", f"{what} {beside}", seconds(subject), seconds(sec), ratio, at_most(bound, ratio))


def _floor(effort: Effort) -> float:
    """Return the seconds in which MLflow's client and a CSV file alone take what the whole run has."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    rows = read_rows(effort.place / "whole")
    points = [Metric(*point) for row in rows for point in row.points()]
    uri = fresh_sqlite(effort, "whole-floor")
    began = time.perf_counter()
    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    for start in range(0, len(points), METRICS_PER_BATCH):
        client.log_batch(run_id, points[start : start + METRICS_PER_BATCH])
    client.set_terminated(run_id)
    with CsvLine(effort.place / "whole-floor.csv") as line:
        for _ in rows:
            line.synced()
    return time.perf_counter() - began
