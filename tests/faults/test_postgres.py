"""``mlflow server`` over PostgreSQL, whose database is stopped under it in the middle of a run."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.common import mlflow_server
from support.store_faults import front_of, play, points_in_store, points_on_disk

from mlflow_ddpm.tracking.sync import sync_directory

pytestmark = pytest.mark.slow


class Postgres:
    """A PostgreSQL server of a test's own, on loopback, in a temporary directory; it refuses to run as root."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self._binaries, self._data = binaries, directory / "data"
        self._as: dict[str, Any] = {"cwd": directory, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(directory, user.pw_uid, user.pw_gid)
            self._as |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.uri = f"postgresql://mlflow@127.0.0.1:{self.port}/postgres"
        made = [str(binaries / "initdb"), "-D", str(self._data), "-A", "trust", "-U", "mlflow", "--no-sync"]
        subprocess.run(made, check=True, timeout=120, **self._as)

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port), "-F"]
        self._server = subprocess.Popen([*command, "-h", "127.0.0.1", "-k", str(self._data)], **self._as)
        asked = [str(self._binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + 60
        while subprocess.run(asked, check=False, **self._as).returncode:
            if time.monotonic() > deadline:
                pytest.fail("PostgreSQL did not come up")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop at once, as a crash would."""
        self._server.send_signal(signal.SIGQUIT)
        self._server.wait(timeout=60)


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """A fresh database."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install -e '.[test]'")
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), Path(shutil.which("initdb") or "/nowhere")]
    if not found[0].exists():
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        server = Postgres(found[0].parent, Path(place))
        server.start()
        yield server
        server.stop()


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
