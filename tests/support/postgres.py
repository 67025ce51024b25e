"""A PostgreSQL server of a test's own."""

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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


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


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Start a server with a fresh database; skip where PostgreSQL or its driver is missing."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install -e '.[test]'")
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), Path(shutil.which("initdb") or "/nowhere")]
    if not found[0].exists():
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        server = Postgres(found[0].parent, Path(place))
        server.start()
        yield server
        server.stop()
