"""Opening and closing a run: at once, interrupted at any moment, closed twice, with a disk that refuses."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pkgutil
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import load_text
from support.common import slow
from support.store_faults import front_of

from mlflow_ddpm import MetricsTracker, read_history
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import PeerLostError, RunMissingError, UsageError
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.layout import DELIVERY_STATE_NAME
from mlflow_ddpm.tracking.sync import sync_directory

NOWHERE = "http://127.0.0.1:9"


def _epoch(tracker: MetricsTracker, number: int) -> None:
    tracker.start_epoch(number)
    tracker.log_batch(1.0, lr=0.1)
    tracker.end_epoch()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds for each request."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.mark.parametrize("mood", ["hang", "slow", "refuse"])
def test_construction_waits_for_no_store(mood: str, short_waits: None) -> None:
    """Whatever the store does; the bound is generous, 0.3 s are measured by the benchmark."""
    mlflow.get_tracking_uri()
    with front_of() as front:
        front.become(mood)
        began = time.monotonic()
        tracker = MetricsTracker("out", tracking_uri=front.url)
        seconds = time.monotonic() - began
        _epoch(tracker, 0)
        tracker.close(timeout=0.1)

    assert seconds < 1.5


def test_construction_on_a_fresh_sqlite_file_waits_for_no_migration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tables take seconds to make; that is no outage, and no warning."""
    with caplog.at_level(logging.INFO):
        tracker = MetricsTracker("out", tracking_uri=f"sqlite:///{tmp_path}/fresh.db")
        is_waiting = not (tmp_path / "fresh.db").exists() or tracker._recorder._state.run_id is None  # type: ignore[union-attr]
        _epoch(tracker, 0)
        assert tracker.close(timeout=120)

    assert is_waiting
    assert MlflowClient(f"sqlite:///{tmp_path}/fresh.db").get_run(str(tracker.run_id)).info.status == "FINISHED"
    assert [] == [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len([r for r in caplog.records if r.name.startswith(("mlflow", "alembic"))]) <= 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child only reads, and leaves
def test_every_thread_that_asks_for_the_runs_id_waits_for_it(sqlite_uri: str) -> None:
    """Not the first alone, while the others get None; in a forked process nothing would come."""
    with MetricsTracker("out", tracking_uri=sqlite_uri) as tracker, ThreadPoolExecutor(8) as pool:
        child = os.fork()
        if not child:
            began = time.monotonic()
            is_same = tracker.run_id == tracker._recorder._state.run_id  # type: ignore[union-attr]
            os._exit(0 if is_same and time.monotonic() - began < 5 else 1)
        assert len(ids := {*pool.map(lambda _: tracker.run_id, range(8))}) == 1
        assert None not in ids

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_runs_id_is_waited_for_once(short_waits: None) -> None:
    """Not at each use while the store does not answer."""
    with front_of() as front:
        front.become("hang")
        tracker = MetricsTracker("out", tracking_uri=front.url)
        assert tracker.run_id is None
        began = time.monotonic()
        assert [tracker.run_id for _ in range(5)] == [None] * 5
        assert time.monotonic() - began < 1
        tracker.close(timeout=0.1)


def test_pictures_and_artifacts_after_the_close_are_refused(sqlite_uri: str) -> None:
    """They would be lost."""
    with MetricsTracker("out") as tracker:
        _epoch(tracker, 0)

    with pytest.raises(UsageError, match="log_image came after the tracker was closed"):
        tracker.log_image("x", np.zeros((4, 4), np.uint8), 0)
    with pytest.raises(UsageError, match="log_artifact came after the tracker was closed"):
        tracker.log_artifact("out/training_metrics.csv")
    with pytest.raises(UsageError, match="start_epoch came after the tracker was closed"):
        tracker.start_epoch(1)


def test_a_picture_that_the_disk_refuses_is_sent_from_memory(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """A file stands where the folder of pictures would be."""
    tracker = MetricsTracker("out")
    Path("out/samples").write_text("in the way")
    tracker.log_image("grid", np.zeros((4, 4), np.uint8), 3)
    _epoch(tracker, 0)
    tracker.close(timeout=30)

    images = [f.path for f in MlflowClient(sqlite_uri).list_artifacts(str(tracker.run_id), "metrics/samples")]
    assert images == ["metrics/samples/grid_epoch_000003.png"]
    assert "cannot write to out" in caplog.text


def test_a_stale_json_is_not_sent(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full for it; rows and the run's end arrive."""
    tracker = MetricsTracker("out")
    _epoch(tracker, 0)
    assert tracker.flush()

    def full(path: Path, content: bytes, *, keep_as: Path | None = None) -> None:
        if path.name == "training_metrics.json":
            raise OSError(errno.ENOSPC, "no space left", str(path))
        replace_file(path, content, keep_as=keep_as)

    monkeypatch.setattr("mlflow_ddpm.storage.guarded_file.replace_file", full)
    _epoch(tracker, 1)
    tracker.close(timeout=30)

    run = MlflowClient(sqlite_uri).get_run(str(tracker.run_id))
    assert run.info.status == "FINISHED"
    assert '"epoch": 1' not in load_text(f"runs:/{run.info.run_id}/metrics/training_metrics.json")
    assert "training_metrics.json" in DeliveryState.load(Path("out")).set_aside  # type: ignore[union-attr]


def test_close_takes_the_error_that_ended_the_training(sqlite_uri: str) -> None:
    """So that nobody calls ``__exit__`` by hand."""
    tracker = MetricsTracker("out")
    _epoch(tracker, 0)
    tracker.close(error=PeerLostError("rank 1 died"))

    run = MlflowClient(sqlite_uri).get_run(str(tracker.run_id))
    assert run.info.status == "FAILED"
    assert (run.data.tags["error.type"], run.data.tags["error.message"]) == ("PeerLostError", "rank 1 died")


def test_a_second_close_is_true_only_if_mlflow_has_everything(sqlite_uri: str, short_waits: None) -> None:
    """The same for a flush after the close."""
    away = MetricsTracker("away", tracking_uri=NOWHERE)
    _epoch(away, 0)
    there = MetricsTracker("there")
    _epoch(there, 0)

    assert [away.close(timeout=0.2), away.close(), away.flush()] == [False] * 3
    assert [there.close(), there.close(), there.flush()] == [True] * 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_an_interrupt_inside_close_leaves_the_handlers_as_they_were(
    error: type[BaseException], sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is free, and a second close does not claim that all was sent."""
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    tracker = MetricsTracker("out", tracking_uri=NOWHERE)
    _epoch(tracker, 0)

    def interrupted(*_: object) -> bool:
        raise error("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow_ddpm.tracking.lane.Lane.work_until", interrupted)
        with pytest.raises(error):
            tracker.close()

    assert before == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    assert tracker.close() is False
    assert tracker.flush() is False
    with MetricsTracker("out", tracking_uri=sqlite_uri, resume=True) as again:
        assert again.next_epoch == 1


@pytest.mark.parametrize(
    "place",
    [
        "tracking.lane.Lane.work_until",
        "tracking.lane.Lane.hurry",
        "tracking.uploader.Uploader.close",
        "tracking.findings_watch.FindingsWatch.close",
        "storage.mirror.Mirror.flush",
    ],
)
def test_an_interrupt_while_close_waits_ends_the_run_all_the_same(
    place: str, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second close may never come: what MLflow takes within seconds is sent."""
    tracker = MetricsTracker("out")
    _epoch(tracker, 0)
    assert tracker.flush()
    _epoch(tracker, 1)
    with monkeypatch.context() as patch:
        for _ in range(3):  # a person presses Ctrl-C again and again
            patch.setattr(f"mlflow_ddpm.{place}", _raise_once(patch, f"mlflow_ddpm.{place}"))
        with pytest.raises(KeyboardInterrupt):
            tracker.close()

    assert MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).info.status in ("FINISHED", "KILLED")
    assert [0, 1] == read_history(str(tracker.run_id))["epoch"].tolist()
    assert tracker.close()


def _raise_once(patch: pytest.MonkeyPatch, name: str) -> Callable[..., Any]:
    """Return a function that raises KeyboardInterrupt, and puts back what has the name now."""
    original = pkgutil.resolve_name(name)

    def interrupted(*_: object) -> None:
        patch.setattr(name, original)
        raise KeyboardInterrupt

    return interrupted


def test_a_missing_run_is_one_error_with_a_remedy(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, short_waits: None
) -> None:
    """Where rows of it are on disk already, the store being away at first, the command that makes it anew."""
    monkeypatch.setenv("MLFLOW_RUN_ID", "e" * 32)
    with pytest.raises(RunMissingError, match=r"pass the run_id .* or unset MLFLOW_RUN_ID"):
        MetricsTracker("none")
    monkeypatch.delenv("MLFLOW_RUN_ID")

    away = MetricsTracker("out", tracking_uri=NOWHERE, run_id="f" * 32)
    _epoch(away, 0)
    away.close("KILLED", timeout=0.1)
    caplog.clear()
    with pytest.raises(RunMissingError, match=r"mlflow-ddpm sync .*out"):
        MetricsTracker("out", tracking_uri=sqlite_uri)

    assert "Training continues" not in caplog.text
    assert [0] == read_history("out")["epoch"].tolist()


@pytest.mark.parametrize(
    "place",
    [
        "mlflow_ddpm.tracking.run_recorder.begin_or_resume",
        "mlflow_ddpm.tracking.run_recorder.undelivered",
        "mlflow_ddpm.tracking.uploader.Uploader.start",
        "mlflow_ddpm.tracking.row_measurement.ShutdownHandler.__init__",
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ImportError])
def test_a_construction_that_breaks_off_leaves_nothing_behind(
    place: str, error: type[BaseException], sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No lock, no thread, no run that is RUNNING; the next tracker works."""
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    earlier = _upload_threads()  # of other tests, in a call to a store that is away

    def broken(*_: object, **__: object) -> None:
        raise error("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(place, broken)
        with pytest.raises(error):
            MetricsTracker("out")
    with MetricsTracker("out") as again:
        _epoch(again, 0)

    runs = MlflowClient(sqlite_uri).search_runs(["0"])
    assert [(again.run_id, "FINISHED")] == [(run.info.run_id, run.info.status) for run in runs]
    assert handlers == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    deadline = time.monotonic() + 10
    while _upload_threads() - earlier and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _upload_threads() - earlier == set()


def _upload_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("mlflow_ddpm-upload")}


def test_a_forked_child_records_nothing(sqlite_uri: str) -> None:
    """Neither rows, nor pictures, nor files, nor an end; where it trains, one line says so."""
    code = """
import os
import numpy as np
from mlflow_ddpm import MetricsTracker, read_history
tracker = MetricsTracker("out")
tracker.start_epoch(0); tracker.log_batch(1.0); tracker.end_epoch()
child = os.fork()
if child == 0:
    tracker.start_epoch(1); tracker.log_batch(9.0); tracker.end_epoch()
    tracker.log_image("x", np.zeros((4, 4), np.uint8), 1)
    tracker.log_artifact("out/training_metrics.csv")
    assert tracker.flush(1) is False
    assert tracker.close() is False
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
tracker.start_epoch(1); tracker.log_batch(2.0); tracker.end_epoch()
assert tracker.close()
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)

    assert done.stderr.count("nothing is recorded in a process that was forked") == 1
    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    losses = [p.value for p in MlflowClient(sqlite_uri).get_metric_history(run.info.run_id, "loss_mean")]
    assert (run.info.status, losses) == ("FINISHED", [1.0, 2.0])
    assert not Path("out/samples").exists()


def test_a_run_of_the_users_is_not_ended_after_the_hidden_file_was_lost(sqlite_uri: str) -> None:
    """The JSON has who made the run."""
    run_id = MlflowClient(sqlite_uri).create_run("0").info.run_id
    tracker = MetricsTracker("out", run_id=run_id)
    _epoch(tracker, 0)
    tracker.close("KILLED")
    (Path("out") / DELIVERY_STATE_NAME).unlink()
    with MetricsTracker("out") as again:
        _epoch(again, 1)

    assert again.run_id == run_id
    assert MlflowClient(sqlite_uri).get_run(run_id).info.status == "RUNNING"


def test_a_clock_that_was_set_back_gives_no_end_before_the_start(sqlite_uri: str) -> None:
    """The end is at the last row's time at the earliest, and every row is uploaded."""
    now = [2_000_000_000_000]
    tracker = MetricsTracker("out", now_ms=lambda: now[0])
    now[0] = 1_500_000_000_000
    _epoch(tracker, 0)
    now[0] = 1_600_000_000_000
    _epoch(tracker, 1)
    now[0] = 1_550_000_000_000
    _epoch(tracker, 2)
    assert tracker.close()

    info = MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).info
    assert info.end_time >= info.start_time
    assert [0, 1, 2] == read_history(str(tracker.run_id))["epoch"].tolist()


def test_the_last_warning_counts_rightly(short_waits: None, caplog: pytest.LogCaptureFixture) -> None:
    """One row is a row."""
    tracker = MetricsTracker("out", tracking_uri=NOWHERE)
    _epoch(tracker, 0)
    tracker.close(timeout=0.2)

    assert "not in MLflow yet: 1 row and " in caplog.text


def _interrupt_at(number: int) -> Callable[[FrameType, str, object], Any]:
    """Return a trace function that raises KeyboardInterrupt at such a line of the package, counted from 1."""
    lines = iter(range(1, 10**9))

    def interrupt(frame: FrameType, event: str, _: object) -> Any:
        if not re.search("mlflow_ddpm/(tracker.py|tracking/|storage/)", frame.f_code.co_filename):
            return None
        if event == "line" and next(lines) == number:
            sys.settrace(None)
            raise KeyboardInterrupt
        return interrupt

    return interrupt


def test_a_row_whose_end_epoch_was_interrupted_is_uploaded_with_the_next(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was on disk already, so nothing would bring it to MLflow later, and close would be True without it."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with MetricsTracker("out") as tracker:
        for number in range(4):
            with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
                if number in (1, 2):
                    patch.setattr("mlflow_ddpm.tracking.uploader.Uploader.write", interrupted)
                _epoch(tracker, number)
        assert tracker.close()

    points = MlflowClient(sqlite_uri).get_metric_history(str(tracker.run_id), "loss_mean")
    assert [0, 1, 2, 3] == sorted(point.step for point in points)


@pytest.mark.parametrize("line", [*map(slow, (145, 174, 190, 206, 226, 470)), 166, 233, 341, 520])
def test_an_interrupt_at_any_line_of_a_construction_lets_everything_go(line: int, sqlite_uri: str) -> None:
    """In a notebook, which keeps the error with all that it holds, the cell runs again."""
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    kept: list[BaseException] = []
    try:
        sys.settrace(_interrupt_at(line))
        MetricsTracker("out").close()
    except KeyboardInterrupt as error:
        kept.append(error)
    finally:
        sys.settrace(None)

    assert handlers == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with MetricsTracker("out", resume=True) as again:
        _epoch(again, 0)
    assert {run.info.status for run in MlflowClient(sqlite_uri).search_runs(["0"])} <= {"FINISHED", "KILLED"}


@pytest.mark.parametrize("line", [1, 14, 60, 240, *map(slow, (5, 9, 30, 120, 141, 400))])
def test_an_interrupt_at_any_line_of_close_lets_everything_go(line: int, sqlite_uri: str) -> None:
    """The run has ended, the threads with it, and the directory can be opened again; a second close tells the truth."""
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    tracker = MetricsTracker("out")
    _epoch(tracker, 0)
    run_id = str(tracker.run_id)

    with contextlib.suppress(KeyboardInterrupt):
        try:
            sys.settrace(_interrupt_at(line))
            tracker.close()
        finally:
            sys.settrace(None)

    if line > 1:  # else it had not begun
        assert handlers == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    if not tracker.close():
        sync_directory(tracker.output_dir)
    run = MlflowClient(sqlite_uri).get_run(run_id)
    assert run.info.status in ("FINISHED", "KILLED")
    assert run.data.metrics["loss_mean"] == 1.0
    MetricsTracker("out", resume=True).close()
