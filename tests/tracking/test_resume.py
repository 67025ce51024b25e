"""Which run a directory's next rows belong to: with real directories, locks and a real store."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.csv_file import read_csv
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.storage.run_target import RunTarget
from mlflow_ddpm.tracking.resume import begin_or_resume, move_finished, rows_of_stored_copy, set_axis
from mlflow_ddpm.tracking.upload_items import Artifact, final_files, undelivered


def record(uri: str, status: str | None = None, every_n_steps: int | None = None) -> str:
    """Record two rows in ``out`` and return the run's id."""
    tracker = MetricsTracker("out", tracking_uri=uri, every_n_steps=every_n_steps)
    for step in range(2):
        if every_n_steps:
            tracker.log_step(step, 1.0)
        else:
            tracker.start_epoch(step)
            tracker.log_batch(1.0)
            tracker.end_epoch()
    tracker.close(status)
    return str(tracker.run_id)


@contextmanager
def opened(directory: str = "out") -> Iterator[Mirror]:
    """The mirror of a directory, its lock held."""
    mirror = Mirror(Path(directory)).open()
    try:
        yield mirror
    finally:
        mirror.close(RunOutcome("KILLED"))


def target(uri: str, run_id: str | None = None) -> RunTarget:
    """Ask for a run of a store, or for none in particular."""
    return RunTarget(uri, run_id)


def test_an_empty_directory_begins_a_run_of_its_own(sqlite_uri: str) -> None:
    """A run that is asked for is joined instead, and not owned."""
    with opened("fresh") as mirror:
        state, wanted = begin_or_resume(mirror, target(sqlite_uri), lambda: 7, resume=False)
        joined, _ = begin_or_resume(mirror, target(sqlite_uri, "ab" * 16), lambda: 7, resume=False)

    assert (state.run_id, state.started_at_ms, state.owned, wanted.run_key) == (None, 7, True, state.run_key)
    assert (joined.run_id, joined.owned) == ("ab" * 16, False)


def test_an_unfinished_run_is_continued_and_a_finished_one_on_request(sqlite_uri: str) -> None:
    """Without resume=True a finished one is refused in one line."""
    killed = record(sqlite_uri, "KILLED")
    with opened() as mirror:
        assert begin_or_resume(mirror, target(sqlite_uri), lambda: 0, resume=False)[0].run_id == killed
    finished = record(sqlite_uri)
    with opened() as mirror:
        with pytest.raises(UsageError, match=rf"out holds the finished run {finished} \(2 rows\); choose another"):
            begin_or_resume(mirror, target(sqlite_uri), lambda: 0, resume=False)
        assert begin_or_resume(mirror, target(sqlite_uri), lambda: 0, resume=True)[0].run_id == finished


def test_another_run_than_the_directorys_is_refused(sqlite_uri: str) -> None:
    """Two histories in one directory would be mixed up."""
    run_id = record(sqlite_uri, "KILLED")
    other = MlflowClient(sqlite_uri).create_run("0").info.run_id
    with opened() as mirror, pytest.raises(UsageError, match=rf"out holds run {run_id} .* but run {other} is asked"):
        begin_or_resume(mirror, target(sqlite_uri, other), lambda: 0, resume=False)


def test_a_finished_directory_is_renamed_unless_its_run_is_asked_for(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The new name is said, and nothing in it is lost."""
    run_id = record(sqlite_uri)
    with opened() as mirror:
        assert not move_finished(mirror, target(sqlite_uri, run_id))
    record_of = Path("out/training_metrics.csv").read_bytes()
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"), opened() as mirror:
        assert move_finished(mirror, target(sqlite_uri))

    assert Path("out-1/training_metrics.csv").read_bytes() == record_of
    assert "its directory is now out-1, and a new run begins" in caplog.text


@pytest.mark.parametrize(("before", "now", "remedy"), [(None, 10, "leave every_n_steps out"), (2, None, "pass every")])
def test_epochs_and_windows_of_steps_do_not_mix(
    sqlite_uri: str, before: int | None, now: int | None, remedy: str
) -> None:
    """The message names the argument."""
    record(sqlite_uri, "KILLED", before)
    state = DeliveryState.load(Path("out"))
    assert state is not None
    with opened() as mirror, pytest.raises(UsageError, match=remedy):
        set_axis(mirror, state, now)


def test_what_the_store_acknowledged_is_not_sent_again_and_all_else_is(sqlite_uri: str) -> None:
    """Rows by their time; files from below the directory alone, whatever the state names."""
    record(sqlite_uri, "KILLED")
    Path("out/own.txt").write_text("x", encoding="utf-8")
    Path("elsewhere.txt").write_text("x", encoding="utf-8")
    with opened() as mirror:
        state = DeliveryState.load(Path("out"))
        assert state is not None
        rows = list(mirror.rows)
        state.artifacts = ["own.txt", "../elsewhere.txt", "gone.txt"]
        sent, state.delivered_through_ms = undelivered(mirror.directory, rows, state), rows[0].logged_at_ms
        unsent = undelivered(mirror.directory, rows, state)

    names = [item.path.name for item in sent if isinstance(item, Artifact)]
    assert names == ["training_metrics.json", "own.txt"]
    assert [item for item in sent if item in rows] == []
    assert [item for item in unsent if item in rows] == [row for row in rows if row.logged_at_ms > rows[0].logged_at_ms]
    assert [item.path.name for item in final_files(Path("out"))] == ["training_metrics.csv", "training_metrics.json"]


NAMES = ("training_metrics.csv", "training_metrics.json")


def stored_run(uri: str) -> tuple[MlflowRun, list[EpochMetrics]]:
    """A finished run of three epochs, and its rows."""
    with MetricsTracker("out", tracking_uri=uri) as tracker:
        for epoch in range(3):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0)
            tracker.end_epoch()
    return MlflowRun(uri, str(tracker.run_id)), list(read_csv(Path("out/training_metrics.csv")))


@pytest.mark.parametrize("name", NAMES)
def test_the_copy_has_the_rows_that_were_sent(sqlite_uri: str, name: str) -> None:
    """To the last bit, so that a directory that lost some gets them back."""
    run, rows = stored_run(sqlite_uri)

    assert rows == list(rows_of_stored_copy(run, name))


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_is_missing_or_damaged_holds_nothing_back(sqlite_uri: str, name: str) -> None:
    """There is nothing to lose in it."""
    run, _ = stored_run(sqlite_uri)
    Path(name).write_text("no history", encoding="utf-8")
    run.log_file(Path(name), "metrics")

    assert not rows_of_stored_copy(run, name)
    assert not rows_of_stored_copy(run, "training_metrics.other.csv")
