"""The rows of a run are the tracker's: points that users log into the same run change none."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from support.common import HandClock, slow

from mlflow_ddpm import MetricsTracker, read_history
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics
from mlflow_ddpm.storage.recovery import read_rows
from mlflow_ddpm.storage.stored_rows import FIRST_ROWS_TAG, read_stored_rows
from mlflow_ddpm.tracking.sync import sync_directory
from mlflow_ddpm.tracking.timing import unix_ms

NAMES = [m.name for m in METRICS if m.name != "epoch"]
MARKS = ["epoch_time_sec", "cumulative_time_sec", "nonfinite_batches"]


def _record(uri: str, epochs: int = 4, log_too: Callable[[EpochMetrics], dict[str, float]] | None = None) -> str:
    with MetricsTracker("out", tracking_uri=uri) as tracker:
        for epoch in range(epochs):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0 / (epoch + 1), lr=0.1, grad_norm=1.0, batch_size=8)
            row = tracker.end_epoch(extra={"fid": 3.0})
            if log_too and row:
                metrics = [Metric(name, value, unix_ms(), epoch) for name, value in log_too(row).items()]
                MlflowClient(uri).log_batch(str(tracker.run_id), metrics)
    return str(tracker.run_id)


@pytest.mark.parametrize("step", [0, 2, slow(99), slow(-1)])
def test_a_users_points_of_any_name_and_step_change_no_row(sqlite_uri: str, step: int) -> None:
    """Even under the names of the table, later and earlier than the tracker's own."""
    run_id = _record(sqlite_uri)
    before, client = read_history(run_id), MlflowClient(sqlite_uri)
    for shift, name in enumerate([*NAMES, "fid", "val/loss", "live/loss", "summary/best", "system/cpu"]):
        client.log_metric(run_id, name, 7.0, step=step)
        client.log_metric(run_id, name, 7.0, step=step, timestamp=shift + 1)

    after = read_history(run_id)

    assert before.equals(after[before.columns])
    assert set(after.columns) == set(before.columns)


def test_a_users_whole_dictionary_of_metrics_is_no_row_without_the_trackers_clock(sqlite_uri: str) -> None:
    """Several of our names at one moment are not enough; nor is one of those that stand in every row."""
    run_id = _record(sqlite_uri)
    before = read_history(run_id)
    names = ("loss_mean", "lr", "grad_norm", "epoch_time_sec")
    MlflowClient(sqlite_uri).log_batch(run_id, [Metric(name, 9.0, 5, 1) for name in names])

    assert before.equals(read_history(run_id))


@pytest.mark.parametrize("value", [slow(0.0), 1.0, slow(7.0), slow(math.nan)])
@pytest.mark.parametrize("names", [NAMES, [*NAMES, "epoch", "fid"], [*MARKS, "loss_mean"], MARKS])
def test_a_users_dictionary_with_all_of_our_names_is_no_row(names: list[str], value: float, sqlite_uri: str) -> None:
    """At the step of a row, or another, long before it or after it."""
    run_id = _record(sqlite_uri)
    before, client = read_history(run_id), MlflowClient(sqlite_uri)
    for step in (0, 2, 99):
        for timestamp in (5 + step, unix_ms()):
            client.log_batch(run_id, [Metric(name, value, timestamp, step) for name in names])

    assert before.equals(read_history(run_id))


@pytest.mark.parametrize("but", [(), ("fid",), ("fid", "lr")])
def test_a_row_that_the_user_logs_as_well_changes_none(but: tuple[str, ...], sqlite_uri: str) -> None:
    """At once, as ``end_epoch`` returned it, or after the training; all of it, or without some columns."""
    run_id = _record(sqlite_uri, log_too=lambda row: {p.key: p.value for p in row.points() if p.key not in but})
    before = read_history("out")
    client = MlflowClient(sqlite_uri)
    for row in read_rows(Path("out"))[:2]:
        points = {p.key: p.value for p in row.points() if p.key not in but}
        client.log_batch(run_id, [Metric(name, value, unix_ms(), row.epoch) for name, value in points.items()])

    assert before.equals(read_history(run_id))


def test_a_users_metric_of_the_very_moment_is_no_column(sqlite_uri: str) -> None:
    """A disk in memory takes a row in a fraction of a millisecond."""
    tracker = MetricsTracker("out", tracking_uri=sqlite_uri, now_ms=lambda: 2_000_000_000_000)
    tracker.start_epoch(0)
    tracker.end_epoch()
    MlflowClient(sqlite_uri).log_metric(str(tracker.run_id), "mine", 1.0, 2_000_000_000_000, 0)
    tracker.close()

    assert "mine" not in read_history(str(tracker.run_id))


def test_a_run_that_an_earlier_version_began_keeps_its_rows() -> None:
    """Its rows have fewer whole numbers than those that this version adds."""
    old = [(epoch, 10 + epoch, 2.0) for epoch in range(2)]
    new = [(epoch, 10 + epoch, 2.0) for epoch in range(2, 4)]
    users = [(3, 99, 2.0)]
    rows = _points(**{name: [*old, *new, *users] for name in MARKS}, batches=new, skipped_steps=new)

    assert [0, 1, 2, 3] == [row["epoch"] for row in rows]


def _points(**values: list[tuple[int, int, float]]) -> list[dict[str, float | None]]:
    """Return the losses of the rows of these points, each a step, a timestamp and a value."""
    rows = read_stored_rows(values, lambda key: [Metric(key, value, ms, step) for step, ms, value in values[key]], {})
    return [{"epoch": row.epoch, "loss_mean": row.loss_mean, **row.extra} for row in rows]


Rows = list[tuple[int, float, float]]  # step, its seconds, those of the run

OURS: Rows = [(0, 1.5, 1.5), (1, 1.25, 2.75), (2, 1.125, 3.875)]
OTHER: Rows = [(0, 2.5, 2.5), (1, 2.25, 4.75), (2, 2.125, 6.875), (3, 2.0, 8.875), (4, 2.0, 10.875)]
AGAIN: Rows = [(0, 3.5, 3.5), (1, 3.25, 6.75)]


@pytest.mark.parametrize(
    ("logged", "first", "steps"),
    [
        ([*OURS, *OTHER], [0], [0, 1, 2]),
        ([*OTHER, *OURS], [5], [0, 1, 2]),
        ([OURS[0], *OTHER, *OURS[1:]], [0], [0, 1, 2]),
        ([*OTHER[:3], *OURS, *OTHER[3:]], [3], [0, 1, 2]),
        ([*OURS, *OTHER[3:]], [0], [0, 1, 2, 3, 4]),  # whether the store lost rows, nothing shows
        ([*OURS, *AGAIN, *OTHER], [0, 3], [0, 1, 2, 0, 1]),
        ([*OURS, (1, 1.75, 3.25), (2, 1.0, 4.25), *OTHER], [0], [0, 1, 2, 1, 2]),  # resumed at 1
        ([OURS[0], OURS[2], *OTHER], [0], [0, 2]),  # the store lost one
        ([*OURS, (3, 0.5, 4.3), (4, 0.5, 4.8), *OTHER], [0], [0, 1, 2, 3, 4]),  # rounded before they were sent
        ([*OURS, (2, 0.5, 0.5), (3, 0.5, 1.0), *OTHER], [0, 3], [0, 1, 2, 2, 3]),  # resumed, the times lost
        ([*OURS, *OTHER], [], [0, 1, 2, 0, 1, 2, 3, 4]),  # of a version that named none
    ],
)
def test_rows_of_another_run_are_known_by_their_times(logged: Rows, first: list[int], steps: list[int]) -> None:
    """Whenever a user logs them, whole, into our run; ``first``: which of the logged ones the run names."""
    points = {
        "epoch_time_sec": [Metric("epoch_time_sec", row[1], ms, row[0]) for ms, row in enumerate(logged)],
        "cumulative_time_sec": [Metric("cumulative_time_sec", row[2], ms, row[0]) for ms, row in enumerate(logged)],
    }
    tag = " ".join(f"{logged[ms][0]}@{ms}" for ms in first)
    rows = read_stored_rows(points, points.__getitem__, {FIRST_ROWS_TAG: tag})

    assert [row.epoch for row in rows] == steps


@pytest.mark.slow
@pytest.mark.parametrize("clock", [0, -30 * 86_400_000])
def test_a_run_that_holds_the_rows_of_another_is_read_resumed_and_synced_as_its_own(
    sqlite_uri: str, clock: int
) -> None:
    """They were logged before ours, between them and after them; the clock may be set back meanwhile."""
    other = _record(sqlite_uri, epochs=9)
    shutil.move("out", "other")
    rows, client = read_rows(Path("other")), MlflowClient(sqlite_uri)

    def log_other() -> None:
        for row in rows:
            points = [Metric(point.key, point.value, unix_ms(), row.epoch) for point in row.points()]
            client.log_batch(run_id, points)

    for first in (0, 3, 0):
        with MetricsTracker("out", tracking_uri=sqlite_uri, resume=True, now_ms=lambda: unix_ms() + clock) as tracker:
            run_id = str(tracker.run_id)
            for epoch in range(first, first + 4):
                tracker.start_epoch(epoch)
                tracker.log_batch(1.0, lr=0.1, grad_norm=1.0, batch_size=8)
                tracker.end_epoch(extra={"fid": 3.0})
                log_other()
        log_other()
        assert read_history("out").equals(read_history(run_id))
    assert "was complete" in sync_directory(Path("out"))
    assert len(read_history(other)) == 9


@pytest.mark.slow
@pytest.mark.parametrize("edit", ["{:.2f}", "{:.0f}", "", "0", "nan"])
def test_a_run_whose_times_a_person_edited_in_the_csv_keeps_its_rows_when_it_is_resumed(
    sqlite_uri: str, clock: HandClock, edit: str
) -> None:
    """Rounded, cleared, set to zero or to no number."""
    for first in (0, 3):
        with MetricsTracker("out", tracking_uri=sqlite_uri, resume=True, clock=clock) as tracker:
            run_id = str(tracker.run_id)
            for epoch in range(first, first + 3):
                tracker.start_epoch(epoch)
                clock.seconds += 1.626
                tracker.log_batch(1.0)
                tracker.end_epoch()
        path = Path("out/training_metrics.csv")
        table = [line.split(",") for line in path.read_text().splitlines()]
        column = table[0].index("cumulative_time_sec")
        for cells in table[1:]:
            cells[column] = edit.format(float(cells[column] or 0))
        path.write_text("".join(",".join(cells) + "\n" for cells in table))

    assert list(read_history(run_id)["epoch"]) == [0, 1, 2, 3, 4, 5]


def test_runs_of_old_versions_have_fewer_marks() -> None:
    """Rows are where the most of the always-measured metrics stand; without any, where a metric of the table does."""
    loss = [(0, 10, 1.0), (1, 20, 0.5), (7, 99, 7.0)]

    assert [1.0, 0.5] == [row["loss_mean"] for row in _points(loss_mean=loss, epoch_time_sec=loss[:2])]
    assert [1.0, 0.5, 7.0] == [row["loss_mean"] for row in _points(loss_mean=loss)]
    assert [] == _points(val_loss=loss)


def test_a_row_that_is_half_sent_is_not_read_yet() -> None:
    """A request may end between the points of one row."""
    full = [(0, 10, 1.0), (1, 20, 1.0)]
    rows = _points(epoch_time_sec=full, cumulative_time_sec=full[:1], nonfinite_batches=full[:1], loss_mean=full[:1])

    assert [0] == [row["epoch"] for row in rows]
