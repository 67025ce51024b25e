"""The run in its store: created once, described from the first epoch on, each item sent once, ended by its owner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_ddpm.core.errors import StoreUnavailableError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.delivery_state import DeliveryState, StateFile
from mlflow_ddpm.storage.images import LoggedImage
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.storage.run_target import RunTarget
from mlflow_ddpm.tracking.remote_run import RemoteRun
from mlflow_ddpm.tracking.run_metadata import RunMetadata
from mlflow_ddpm.tracking.upload_items import Artifact

ROW = EpochMetrics(epoch=0, loss_mean=0.5, epoch_time_sec=1.0, cumulative_time_sec=1.0, logged_at_ms=1000)


@contextmanager
def remote_run(uri: str, *, run_id: str | None = None, **state: Any) -> Iterator[tuple[RemoteRun, DeliveryState]]:
    """A run over the mirror ``out``, not open yet, as a process meets it that has this delivery state."""
    mirror = Mirror(Path("out").absolute()).open()
    delivery = DeliveryState(tracking_uri=uri, run_id=run_id, started_at_ms=500, **state)
    metadata = RunMetadata.create({"lr": 0.1}, {"team": "blue"}, {"device": "cpu"})
    target = RunTarget(uri, run_id, run_key=delivery.run_key, is_own=run_id is not None and delivery.owned)
    yield RemoteRun(target, mirror, StateFile(mirror.directory, delivery), metadata), delivery
    mirror.close(RunOutcome(delivery.status))


def _points(uri: str, run_id: str | None, key: str) -> list[tuple[int, float, int]]:
    assert run_id
    return [(p.step, p.value, p.timestamp) for p in MlflowClient(uri).get_metric_history(run_id, key)]


def test_nothing_can_be_sent_before_the_run_is_open(sqlite_uri: str) -> None:
    """Whoever sends too early waits, as for a store that is away."""
    with remote_run(sqlite_uri) as (remote, _):
        assert not remote.is_open
        with pytest.raises(StoreUnavailableError, match="not open yet"):
            remote.send_rows([ROW])


def test_the_page_of_a_new_run_is_readable_before_the_first_row(store_uri: str) -> None:
    """Params, tags and environment are there; the run has the start time of the training, not of the upload."""
    with remote_run(store_uri) as (remote, state):
        remote.open()

        run = MlflowClient(store_uri).get_run(str(state.run_id))
        assert remote.is_open
        assert run.info.start_time == 500
        assert run.data.params == {"lr": "0.1"}
        assert {"team": "blue", "env.device": "cpu"}.items() <= run.data.tags.items()


def test_a_run_whose_creation_was_not_heard_of_is_found_again(sqlite_uri: str) -> None:
    """A process killed between the store's answer and its own note does not make a second run."""
    with remote_run(sqlite_uri, run_key="key") as (remote, _):
        remote.open()
    with remote_run(sqlite_uri, run_key="key") as (remote, _):
        remote.open()

    assert len(MlflowClient(sqlite_uri).search_runs(["0"])) == 1


def test_rows_that_arrived_although_the_answer_was_lost_are_sent_once(store_uri: str) -> None:
    """The next process asks the store for its points first, and sends each row with its first timestamp."""
    with remote_run(store_uri) as (remote, state):
        remote.open()
        remote.send_rows([ROW])
        run_id = state.run_id
    with remote_run(store_uri, run_id=run_id) as (remote, state):
        remote.open()
        remote.send_rows([ROW])

        assert state.delivered_through_ms == 1000
    assert _points(store_uri, run_id, "loss_mean") == [(0, 0.5, 1000)]


def test_what_the_store_does_not_take_is_set_aside_and_all_else_is_sent(sqlite_uri: str) -> None:
    """A file that is gone, and one metric with a name that MLflow refuses; both are named with the reason."""
    odd = EpochMetrics(epoch=1, loss_mean=0.25, extra={"a" * 300: 1.0}, logged_at_ms=2000)
    with remote_run(sqlite_uri) as (remote, state):
        remote.open()
        remote.send_rows([ROW, odd])
        remote.send_file(Artifact(Path("out/gone.txt").absolute(), "metrics"))

        assert list(state.set_aside) == [f"metric {'a' * 300}, step 1", "gone.txt"]
        assert "No such file" in state.set_aside["gone.txt"]
    assert _points(sqlite_uri, state.run_id, "loss_mean") == [(0, 0.5, 1000), (1, 0.25, 2000)]


def test_a_picture_that_was_deleted_before_it_was_sent_counts_as_sent(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing left to send, so nothing waits for it, whatever moment the process is killed at."""
    name = "grid_epoch_000000.png"
    saved: list[Any] = []
    with remote_run(sqlite_uri) as (remote, state):
        remote.open()
        state.set_aside = {f"samples/{name}": "the disk refused it"}
        monkeypatch.setattr(DeliveryState, "save", lambda now, _: saved.append((now.pictures, now.set_aside)))
        remote.send_image(LoggedImage("grid", Path("out/samples", name).absolute(), 0, 7))

        assert saved == [({name: 7}, {})]
        assert saved == [(state.pictures, state.set_aside)]


@pytest.mark.parametrize(("owned", "status"), [(True, "FAILED"), (False, "RUNNING")])
def test_only_a_run_that_the_tracker_created_is_ended_by_it(sqlite_uri: str, *, owned: bool, status: str) -> None:
    """In a run of the user's own the reason is a tag, and the run is the user's to end."""
    run_id = None if owned else MlflowClient().create_run("0").info.run_id
    with remote_run(sqlite_uri, run_id=run_id, owned=owned) as (remote, state):
        remote.open()
        state.set_outcome(RunOutcome("FAILED", "ValueError", "no data", at_ms=9000))
        remote.finish()

        run = MlflowClient().get_run(str(state.run_id))
        assert state.ended
        assert (run.info.status, run.data.tags["error.type"]) == (status, "ValueError")
        assert run.info.end_time == (9000 if owned else None)


def test_a_run_made_after_the_tracker_had_given_up_is_ended_all_the_same(sqlite_uri: str) -> None:
    """The store answered too late: a run that stays RUNNING for ever would be left behind."""
    with remote_run(sqlite_uri) as (remote, state):
        state.set_outcome(RunOutcome("FINISHED", at_ms=9000))
        remote.open()
        remote.end_if_orphaned()

        assert MlflowClient().get_run(str(state.run_id)).info.status == "FINISHED"


def test_a_second_tracker_in_a_run_writes_to_a_child_of_it(sqlite_uri: str) -> None:
    """The child is the tracker's own, and the state on disk names both."""
    parent = MlflowClient(sqlite_uri).create_run("0").info.run_id
    mlflow.set_tracking_uri(sqlite_uri)
    with remote_run(sqlite_uri, run_id=parent, owned=False) as (first, _):
        first.open()
    with remote_run(sqlite_uri, run_id=parent, owned=False) as (second, state):
        second.open()

        assert (state.parent_run_id, state.owned) == (parent, True)
        assert MlflowClient().get_run(str(state.run_id)).data.tags["mlflow.parentRunId"] == parent
