"""``read_history`` of a long run, beside the bare calls of MLflow's client that it cannot do without."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator

from growth import made_up_rows
from stopwatches import Effort, compare
from stores import fresh_sqlite
from table import Row, at_most, seconds

from mlflow_ddpm import read_history

__all__ = ["measure"]

_TO_BARE, _LINEAR = 1.1, 2.2


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of point 8."""
    from mlflow import MlflowClient

    uri, epochs = fresh_sqlite(effort, "reading"), effort.of(10_000, 50)
    client = MlflowClient(uri)
    whole, half = (_run_of(client, uri, count) for count in (epochs, epochs // 2))
    keys = sorted(client.get_run(whole).data.metrics)

    def bare() -> None:
        for key in keys:
            client.get_metric_history(whole, key)

    pair = compare(lambda: read_history(whole, tracking_uri=uri), bare, repeats=effort.of(3, 1))
    what = f"`read_history` of {len(keys)} metrics x {epochs:,} epochs from sqlite, beside bare `get_metric_history`"
    yield Row(8, what, seconds(pair.subject), seconds(pair.baseline), pair.ratio, at_most(_TO_BARE, pair.ratio))
    pair = compare(
        lambda: read_history(whole, tracking_uri=uri),
        lambda: read_history(half, tracking_uri=uri),
        repeats=effort.of(3, 1),
    )
    what = "`read_history` of twice as many epochs, beside half of them"
    yield Row(8, what, seconds(pair.subject), seconds(pair.baseline), pair.ratio, at_most(_LINEAR, pair.ratio))


def _run_of(client: object, uri: str, epochs: int) -> str:
    """Put a run of so many epochs into the store, past MLflow: a minute of ``log_batch`` calls otherwise."""
    run_id = str(client.create_run("0").info.run_id)  # type: ignore[attr-defined]
    rows = [dataclasses.replace(row, extra={"fid": 1 / (row.epoch + 1)}) for row in made_up_rows(epochs)]
    points = [(key, value, ms, run_id, step, 0) for row in rows for key, value, ms, step in row.points()]
    last = points[-len(rows[-1].points()) :]
    columns = "(key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)"
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        database.executemany(f"INSERT INTO metrics {columns}", points)
        database.executemany(f"INSERT INTO latest_metrics {columns}", last)
    database.close()
    return run_id
