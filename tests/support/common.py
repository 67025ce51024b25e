"""What all tests share: the checkout's root, a clock moved by hand, and real MLflow servers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

ROOT = Path(__file__).parents[2]


class HandClock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        """Return the seconds that it shows."""
        return self.seconds


def draw_few_plots() -> None:
    """Let this process draw two plots of the eleven, one panel and the dashboard, where plots are not what is shown."""
    from mlflow_ddpm import plots
    from mlflow_ddpm.plotting.plot_table import PLOTS
    from mlflow_ddpm.publishing import comparison_page

    for module in (plots, comparison_page):
        module.PLOTS = (PLOTS[0], PLOTS[-1])  # type: ignore[attr-defined]


def slow(*values: object) -> ParameterSet:
    """Values of a parametrised test that only the slow suite tries."""
    return pytest.param(*values, marks=pytest.mark.slow)


@contextmanager
def mlflow_server(
    directory: Path,
    database: Path | None = None,
    store: str = "",
    *,
    python: Path | None = None,
    options: Sequence[str] = (),
) -> Iterator[str]:
    """Start a real ``mlflow server`` with one worker over a copy of a sqlite database, or over another store.

    ``python``: the interpreter whose MLflow serves; ``options``: further ones of the command. It goes without the eight
    processes for MLflow's own jobs, which nobody here starts and which take 11 s of CPU.
    """
    if database:
        shutil.copy(database, directory / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        str(python or sys.executable),
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", store or f"sqlite:///{directory / 'server.db'}"]
    command += ["--artifacts-destination", str(directory / "artifacts"), *options]
    with (directory / "server.log").open("wb") as log:
        env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, start_new_session=True, env=env)
    try:
        _wait_until(lambda: _is_healthy(f"http://127.0.0.1:{port}/health"), server)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in (401, 404)  # it asks for a password, or serves below a prefix
    except OSError:
        return False


def _wait_until(done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail("the MLflow server did not come up")
        time.sleep(0.2)
