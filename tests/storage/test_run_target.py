"""Which run a tracker writes to, and what is taken for a tracking URI."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from support.store_faults import play

from mlflow_ddpm import MetricsTracker, UsageError, read_history
from mlflow_ddpm.core.errors import StoreRefusedError
from mlflow_ddpm.storage.run_target import RunTarget, open_run, resolve_run_target
from mlflow_ddpm.tracking.sync import sync_directory

PARENT = "mlflow.parentRunId"


def losses(run_id: str | None) -> list[float]:
    """The losses of a run, as they are read back."""
    assert run_id
    return [float(value) for value in read_history(run_id)["loss_mean"]]


@pytest.mark.parametrize("given", [Path("http://host:5000"), Path("sqlite:///a.db"), 5, b"runs"])
def test_what_is_no_tracking_uri_is_refused(given: Any) -> None:
    """One line, before anything is written."""
    with pytest.raises(UsageError, match="tracking_uri"):
        MetricsTracker("out", tracking_uri=given)
    assert not Path("out").exists()


def test_an_active_run_counts_only_in_its_own_store(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id of one store means nothing in another; so it is with MLFLOW_RUN_ID."""
    with mlflow.start_run() as run:
        assert resolve_run_target().run_id == run.info.run_id
        assert resolve_run_target(RunTarget("sqlite:///b.db")).run_id is None
        assert resolve_run_target(RunTarget(sqlite_uri)).run_id == run.info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", "f" * 32)
    assert resolve_run_target().run_id == "f" * 32
    assert resolve_run_target(RunTarget("http://127.0.0.1:9")).run_id is None


def test_a_second_tracker_in_a_run_gets_a_child_and_a_line_says_so(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each keeps its own history, and each goes on in its own run when it is resumed."""
    with mlflow.start_run(experiment_id=mlflow.create_experiment("gan")) as run:
        trackers = [MetricsTracker(name) for name in ("generator", "discriminator")]
        for tracker in trackers:
            tracker.close("FAILED")
        ids = [tracker.run_id for tracker in trackers]
        again = [play(name, epochs=2).tracker.run_id for name in ("generator", "discriminator")]

    client = MlflowClient(sqlite_uri)
    child = client.get_run(str(ids[1]))
    assert ids[0] == run.info.run_id
    assert again == ids
    assert (child.data.tags[PARENT], child.info.run_name) == (run.info.run_id, "discriminator")
    assert child.info.experiment_id == run.info.experiment_id
    assert child.info.status == "FINISHED"
    assert caplog.text.count("a child run of its own") == 1
    assert [len(losses(run_id)) for run_id in ids] == [2, 2]


@pytest.mark.slow
def test_trackers_in_threads_and_other_processes_share_no_run(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `mlflow run` all of them see the same MLFLOW_RUN_ID."""
    client = MlflowClient(sqlite_uri)
    parent = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    code = "from support.store_faults import play; play('process', epochs=1, close_sec=20)"
    process = subprocess.Popen([sys.executable, "-c", code])
    threads = [threading.Thread(target=play, args=(f"thread{n}",), kwargs={"epochs": 1}) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert process.wait(60) == 0

    runs = client.search_runs(["0"])
    assert len(runs) == 3
    assert [run.data.tags.get(PARENT) for run in runs].count(parent) == 2
    assert [len(losses(run.info.run_id)) for run in runs] == [1, 1, 1]


def test_a_sweep_below_one_active_run_has_a_run_for_each_setting(sqlite_uri: str) -> None:
    """The one before has been closed; its history stays its own. A directory used anew counts as another tracker."""
    with mlflow.start_run() as run:
        ids = [play(f"lr{n}", epochs=n + 1, config={"lr": n}).tracker.run_id for n in range(3)]

    client = MlflowClient(sqlite_uri)
    assert [len(losses(run_id)) for run_id in ids] == [1, 2, 3]
    assert [client.get_run(str(i)).data.params["lr"] for i in ids] == ["0", "1", "2"]
    assert [client.get_run(str(i)).data.tags.get(PARENT) for i in ids] == [None, run.info.run_id, run.info.run_id]


def test_a_name_that_cannot_be_had_is_reported(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """An existing run keeps its name and its experiment."""
    with mlflow.start_run(run_name="mine"):
        MetricsTracker("out", run_name="other", experiment_name="elsewhere").close()

    assert "run_name='other' has no effect" in caplog.text
    assert "experiment_name='elsewhere' has no effect" in caplog.text
    assert MlflowClient(sqlite_uri).get_experiment_by_name("elsewhere") is None


def test_two_trackers_of_one_run_that_never_reached_it_stay_apart_when_they_are_synced(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to arrive takes the run, the second gets a child."""
    client = MlflowClient(sqlite_uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", client.create_run("0").info.run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name, epochs in (("generator", 1), ("discriminator", 2)):
        play(name, epochs=epochs, close_sec=0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)
    for name in ("generator", "discriminator"):
        sync_directory(Path(name), tracking_uri=sqlite_uri, timeout=60)

    runs = {run.data.tags.get(PARENT): run.info.run_id for run in client.search_runs(["0"])}
    assert [len(losses(run_id)) for run_id in runs.values()] == [2, 1]
    assert runs[os.environ["MLFLOW_RUN_ID"]] != os.environ["MLFLOW_RUN_ID"]


@pytest.mark.parametrize("configured", ["", " ", "localhost:5000", "http:/h"])
def test_settings_that_name_no_store_matter_only_where_they_are_used(
    configured: str, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is named is used, by a training and by a sync."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", configured)
    mlflow.set_tracking_uri(configured)
    assert resolve_run_target(RunTarget(sqlite_uri)).tracking_uri == sqlite_uri
    play("out", tracking_uri=sqlite_uri)
    assert "was complete in MLflow (6 rows)" in sync_directory(Path("out"))
    with pytest.raises(UsageError, match="is no tracking URI"):
        resolve_run_target()


@pytest.mark.parametrize("name", ["/proc/x.db", "/proc/new/x.db"])
def test_a_database_that_cannot_be_made_is_refused_at_once(name: str) -> None:
    """MLflow would try for minutes."""
    with pytest.raises(StoreRefusedError, match="No such file or directory"):
        open_run(RunTarget(f"sqlite:///{name}"), started_at_ms=0, tags={})


@pytest.mark.slow
@pytest.mark.parametrize("module", ["numpy.lib", "mlflow.entities"])
def test_an_interrupt_of_the_first_import_leaves_a_process_in_which_the_next_tracker_works(
    module: str, sqlite_uri: str
) -> None:
    """A notebook's kernel, say: half of MLflow would stay in it until it is started anew."""
    code = f"""
import _thread, sys, threading
from mlflow_ddpm import MetricsTracker
def interrupt():
    while {module!r} not in sys.modules: pass
    _thread.interrupt_main()
threading.Thread(target=interrupt, daemon=True).start()
try:
    MetricsTracker("out").close()
except KeyboardInterrupt:
    print("interrupted")
with MetricsTracker("out", resume=True) as tracker:
    tracker.start_epoch(0); tracker.log_batch(1.0); tracker.end_epoch()
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=240, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
    assert MlflowClient(sqlite_uri).search_runs(["0"])[0].info.status == "FINISHED"
