"""What the tests share: a clean environment, real stores, and trackers driven by hand."""

from __future__ import annotations

import functools
import gc
import logging
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.common import HandClock, draw_few_plots, mlflow_server

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"  # two spin against each other on a busy machine
# Compiled modules are kept: else each worker compiles all tests anew, and each child process the package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


_USUAL_HANDLERS: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores: some always wait, for a server or a process of their own."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the shared server come first: all in one worker's share, so that only this worker starts a server."""
    items.sort(key=lambda item: "server_uri" not in getattr(item, "fixturenames", ()))


def pytest_unconfigure() -> None:
    """One look for garbage is enough: pytest would take five, of half a million objects each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test starts in an empty directory, without MLflow settings or a launcher's variables, and leaves none."""
    for name in list(os.environ):
        launcher = name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") or name.startswith(("SLURM_", "OMPI_", "PMI"))
        if launcher or (name.startswith("MLFLOW_") and name != "MLFLOW_DISABLE_TELEMETRY"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    for signum, usual in _USUAL_HANDLERS.items():
        if signal.getsignal(signum) == signal.SIG_IGN:  # a shell starts background jobs so, and nohup all
            signal.signal(signum, usual)
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(0)  # the same numbers whatever ran before, and on however many workers
    before = dict(os.environ)
    log = logging.getLogger("mlflow_ddpm")
    yield
    log.handlers[:], log.propagate = [], True  # as the command line leaves it, caplog would see nothing
    os.environ.clear()
    os.environ.update(before)
    _forget_mlflow_state()
    _forget_open_trackers()


def _forget_open_trackers() -> None:
    """A tracker that a test leaves open, as a killed training does, keeps its signal handlers from the next test."""
    if "mlflow_ddpm.tracking.shutdown" in sys.modules:
        from mlflow_ddpm.tracking import shutdown

        for handler in list(shutdown._watching):
            handler.stop()


def _forget_mlflow_state() -> None:
    if "mlflow" in sys.modules:
        import mlflow

        while mlflow.active_run():
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
        mlflow.tracking.fluent._active_experiment_id = None
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A sqlite store whose tables stand; making them takes seconds, so pytest's cache keeps one per MLflow."""
    import mlflow
    from filelock import FileLock
    from mlflow import MlflowClient
    from mlflow.store.db import utils

    # Each new store loads all of MLflow's migrations to see which is the newest: a sixth of what a short run costs.
    utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
    cache = getattr(request.config, "cache", None)
    kept = (cache.mkdir("mlflow") if cache else tmp_path_factory.getbasetemp()) / f"{mlflow.__version__}.db"
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            MlflowClient(f"sqlite:///{kept}.part").search_experiments()
            Path(f"{kept}.part").rename(kept)
    path = Path(shutil.copy(kept, tmp_path_factory.mktemp("database") / "empty.db"))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", [str(path.parent / "mlruns" / "0")])
    return path


@pytest.fixture
def sqlite_uri(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh sqlite store in the test's directory, where MLflow looks by default; older versions are set to it."""
    import mlflow

    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    if mlflow.get_tracking_uri() != uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture(params=["sqlite", "file"])
def store_uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each local kind of store in turn: sqlite, which is MLflow's default, and the file store."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_uri"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "mlruns").as_uri()


@pytest.fixture(scope="session")
def server_uri(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    """A real ``mlflow server`` on loopback, over sqlite; one for all tests, which keep to runs of their own."""
    from mlflow import MlflowClient

    with mlflow_server(tmp_path_factory.mktemp("server"), empty_database) as url:
        client = MlflowClient(url)
        client.create_run(client.create_experiment("warm up"))  # the first requests of a server take seconds
        yield url


@pytest.fixture
def one_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever draws a run draws one plot of the eleven: for tests of what else is made, read, sent or hidden."""
    from mlflow_ddpm import plots
    from mlflow_ddpm.plotting.plot_table import PLOTS
    from mlflow_ddpm.publishing import comparison_page

    for module in (plots, comparison_page):
        monkeypatch.setattr(module, "PLOTS", PLOTS[:1])


@pytest.fixture
def few_plots(one_plot: None) -> None:
    """Whoever draws a run draws one panel and the dashboard: for tests of the files that come of a plot."""
    draw_few_plots()  # ``one_plot`` puts all eleven back


@pytest.fixture
def clock() -> HandClock:
    """A clock that the test moves."""
    return HandClock()


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is rank 0 of a group of two, whose store is in its memory."""
    from torch.distributed import HashStore  # type: ignore[attr-defined]

    from mlflow_ddpm.tracking import rank_sync

    store = HashStore()
    monkeypatch.setattr(rank_sync, "_group_store", lambda: store)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
