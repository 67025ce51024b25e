"""``mlflow server`` over PostgreSQL, whose database is stopped under it in the middle of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.common import mlflow_server
from support.postgres import Postgres, postgres_server
from support.store_faults import front_of, play, points_in_store, points_on_disk

from mlflow_ddpm.tracking.sync import sync_directory

pytestmark = pytest.mark.slow


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A fresh database."""
    with postgres_server() as server:
        yield server


def test_a_database_stopped_under_the_server_loses_no_row(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers get lost first, then the database stops; sync sends the rest when it is back, each row once."""
    with mlflow_server(tmp_path, store=postgres.uri) as server, front_of(server) as front:
        client = MlflowClient(server)
        experiment = client.create_experiment("postgres")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

        def at(epoch: int) -> None:
            if epoch == 20:
                front.become("cut")
            if epoch == 40:
                postgres.stop()

        played = play("out", epochs=60, at=at, tracking_uri=front.url, experiment_name="postgres", config={"a": "b\0c"})
        front.become("pass")
        postgres.start()
        sync_directory(Path("out"), timeout=60)

        (run,) = client.search_runs([experiment])
        print(f"PostgreSQL: largest stall {1e3 * played.stall_sec:.1f} ms, close {played.close_sec:.2f} s")
        assert (run.info.status, run.data.params) == ("FINISHED", {"a": "bc"})
        assert points_on_disk("out") == points_in_store(server, run.info.run_id)
        assert played.stall_sec < 1
