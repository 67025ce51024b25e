"""Tracking stores to measure against: one that is fine, one that refuses, one that hangs, and a real server."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

from stopwatches import Effort  # noqa: TC002 - our own, beside this file

__all__ = ["Server", "fresh_sqlite", "hanging_uri", "refusing_uri"]

_UP_WITHIN_SEC = 120


def fresh_sqlite(effort: Effort, name: str) -> str:
    """Return the URI of a new sqlite store whose tables stand: making them takes seconds, copying the file does not."""
    original = effort.place / "empty.db"
    if not original.exists():
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{original}").search_experiments()
    shutil.copy(original, effort.place / f"{name}.db")
    return f"sqlite:///{effort.place / name}.db"


def refusing_uri() -> str:
    """Return the address of a port on loopback where nobody listens."""
    return f"http://127.0.0.1:{_free_port()}"


@contextlib.contextmanager
def hanging_uri() -> Iterator[str]:
    """Give the address of a socket on loopback that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)  # the kernel accepts for us; nobody reads
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


class Server:
    """A real ``mlflow server`` on loopback over sqlite; :meth:`stop` must be called."""

    def __init__(self, effort: Effort) -> None:
        """Start it; it takes seconds until :meth:`uri` can answer."""
        self._port = _free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", fresh_sqlite(effort, "server")]
        command += ["--artifacts-destination", str(effort.place / "artifacts")]
        with (effort.place / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=effort.place, start_new_session=True, env=_modest()
            )

    def uri(self) -> str:
        """Return its address once it answers."""
        uri = f"http://127.0.0.1:{self._port}"
        deadline = time.monotonic() + _UP_WITHIN_SEC
        while not _is_healthy(f"{uri}/health"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the MLflow server did not come up")
            time.sleep(0.1)
        return uri

    def stop(self) -> None:
        """End the server and its workers."""
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _modest() -> dict[str, str]:
    """Return the environment without job runners, which would be processes of their own."""
    return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)
    except OSError:
        return False
