"""The uploader: nothing waits behind what cannot be sent, no error ends a thread, an outage is one warning."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from support.common import slow
from support.store_faults import front_of, points_in_store, points_on_disk

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.cli.main import main
from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.mlflow_call import FROZEN_BY_PYTHON
from mlflow_ddpm.storage.status import status_of
from mlflow_ddpm.tracking.sync import sync_directory

GREY = np.full((4, 4), 127, np.uint8)


def _epoch(tracker: MetricsTracker, number: int, **end: Any) -> None:
    tracker.start_epoch(number)
    tracker.log_batch(1.0 / (number + 1), lr=0.1, batch_size=4)
    tracker.end_epoch(**end)


def _warnings(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if text in r.getMessage() and r.levelno >= logging.WARNING]


def _wide(tracker: MetricsTracker) -> str:
    tracker.log_image("strip", np.zeros((4, 2048), np.uint8), 0)
    return "samples/strip_epoch_000000.png"


def _torn(tracker: MetricsTracker) -> str:
    tracker.log_image("torn", GREY, 0)
    path = tracker.output_dir / "samples/torn_epoch_000000.png"
    path.write_bytes(path.read_bytes()[:30])
    return "samples/torn_epoch_000000.png"


def _fifo(tracker: MetricsTracker) -> str:
    os.mkfifo(tracker.output_dir / "pipe")
    tracker.log_artifact(tracker.output_dir / "pipe")
    return "pipe"


def _folder(tracker: MetricsTracker) -> str:
    (tracker.output_dir / "folder").mkdir()
    tracker.log_artifact(tracker.output_dir / "folder")
    return "folder"


def _missing(tracker: MetricsTracker) -> str:
    tracker.log_artifact(tracker.output_dir / "nothing.txt")
    return "nothing.txt"


def _unencodable(tracker: MetricsTracker) -> str:
    name = os.fsdecode(b"\xff\xfe.txt")
    (tracker.output_dir / name).write_text("x")
    tracker.log_artifact(tracker.output_dir / name)
    return ""  # sent or set aside, as the file system of the artifact store has it


@pytest.mark.parametrize("make", [_wide, _torn, _fifo, _folder, _missing, _unencodable])
def test_a_file_that_cannot_be_sent_holds_nothing_up(
    make: Any, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows, the run's end and the other files arrive; one warning names it, and `status` lists it."""
    tracker = MetricsTracker("out")
    assert tracker.run_id
    name = make(tracker)
    _epoch(tracker, 0)
    tracker.log_image("good", GREY, 0)
    _epoch(tracker, 1)
    complete = tracker.close(timeout=30)

    run = MlflowClient(sqlite_uri).get_run(tracker.run_id)
    files = [f.path for f in MlflowClient(sqlite_uri).list_artifacts(tracker.run_id, "metrics/samples")]
    assert run.info.status == "FINISHED"
    assert points_on_disk("out") == points_in_store(sqlite_uri, tracker.run_id)
    assert "metrics/samples/good_epoch_000000.png" in files
    if name:
        assert complete is False
        assert len(_warnings(caplog, f"{name} is not sent to MLflow")) == 1
        assert f"set aside {name}: " in status_of(Path("out"))


def test_what_was_set_aside_is_sent_by_a_later_sync_once_it_can_be(sqlite_uri: str) -> None:
    """The file is mended meanwhile; sync sends it and has nothing more to report."""
    tracker = MetricsTracker("out")
    _epoch(tracker, 0)
    _missing(tracker)
    _torn(tracker)
    tracker.close(timeout=30)
    first = sync_directory(Path("out"), timeout=30)
    Path("out/nothing.txt").write_text("something")
    shutil.copy(_png(), "out/samples/torn_epoch_000000.png")
    second = sync_directory(Path("out"), timeout=30)

    client, run_id = MlflowClient(sqlite_uri), str(tracker.run_id)
    files = {f.path for folder in ("metrics", "metrics/samples") for f in client.list_artifacts(run_id, folder)}
    assert "without what it does not take" in first
    assert "is complete in MLflow (1 row)" in second
    assert {"metrics/nothing.txt", "metrics/samples/torn_epoch_000000.png"} <= files
    assert DeliveryState.load(Path("out")).set_aside == {}  # type: ignore[union-attr]


def _png() -> Path:
    from PIL import Image

    Image.fromarray(GREY).save("good.png")
    return Path("good.png")


def test_files_named_by_a_strangers_delivery_state_are_not_sent(sqlite_uri: str, tmp_path: Path) -> None:
    """A directory is data: what lies outside of it stays where it is."""
    (tmp_path / "secret.txt").write_text("secret")
    tracker = MetricsTracker("out")
    _epoch(tracker, 0)
    tracker.close(timeout=30)
    state = DeliveryState.load(Path("out"))
    assert state
    (tmp_path / "out/link.txt").symlink_to(tmp_path / "secret.txt")
    state.artifacts = ["../secret.txt", str(tmp_path / "secret.txt"), "link.txt"]
    state.save(Path("out"))
    sync_directory(Path("out"), timeout=30)

    files = [f.path for f in MlflowClient(sqlite_uri).list_artifacts(str(tracker.run_id), "metrics")]
    assert not [path for path in files if "secret" in path or "link" in path]


def test_odd_tags_params_and_metrics_are_set_aside_alone(sqlite_uri: str) -> None:
    """The others of the same request arrive."""
    config = {"../up": 1, "a/../b": 2, "plain": 3, "lone": "\ud800", "long": "x" * 9000, "k" * 300: 4}
    tracker = MetricsTracker("out", config=config, tags={"..": "x", "ok": "yes", "lone": "\udcff"})
    _epoch(tracker, 0, extra={"fine": 1.0})
    tracker.close(timeout=30)

    run = MlflowClient(sqlite_uri).get_run(str(tracker.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.params["plain"] == "3"
    assert run.data.tags["ok"] == "yes"
    assert run.data.metrics["fine"] == 1.0


@pytest.mark.parametrize(
    ("poison", "aside"),
    [
        (b'"odd"', {f"metric odd, step {epoch}" for epoch in range(3)}),
        *map(
            slow,
            (b"bad", b'"params": [{', b"experiments/get?", b"note.content"),
            (
                {"tag t", "tag u", "param p"},
                {"param p", "param q"},
                {"the run's experiment"},
                {"the run's description"},
            ),
        ),
    ],
)
def test_what_a_server_fails_on_for_ever_holds_nothing_up(
    poison: bytes, aside: set[str], server_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows, the rest and the end arrive; one warning names it; `sync` sends it once the server takes it."""
    with front_of(server_uri) as front:
        front.poison = poison
        tags, config = {"t": "bad", "u": "bad", "fine": "x"}, {"p": "bad", "q": 1}
        tracker = MetricsTracker("out", tracking_uri=front.url, tags=tags, config=config)
        for epoch in range(3):
            _epoch(tracker, epoch, extra={"odd": 1.0, "fine": 2.0})
        assert not tracker.close()
        state = DeliveryState.load(Path("out"))
        assert state
        assert set(state.set_aside) == aside
        assert MlflowClient(server_uri).get_run(str(tracker.run_id)).info.status == "FINISHED"
        assert len(points_in_store(server_uri, tracker.run_id)["loss_mean"]) == 3
        assert len(_warnings(caplog, "is not sent to MLflow")) == 1
        front.poison = b""
        assert "is complete in MLflow" in sync_directory(Path("out"), tracking_uri=front.url)

    assert points_on_disk("out") == points_in_store(server_uri, tracker.run_id)


@pytest.mark.slow
def test_rows_do_not_wait_for_a_history_that_a_server_fails_to_give(server_uri: str) -> None:
    """After an outage the tracker asks what has arrived; of one metric it may never know."""
    with front_of(server_uri) as front:
        front.poison = b"metric_key=lr"
        tracker = MetricsTracker("out", tracking_uri=front.url)
        for epoch in range(3):
            front.become(503 if epoch == 1 else "pass")
            _epoch(tracker, epoch)
            tracker.flush(5)
        assert tracker.close()

    assert points_on_disk("out") == points_in_store(server_uri, tracker.run_id)


def _put_back(backup: Path) -> None:
    backup.replace("mlflow.db")


def _write_back(backup: Path) -> None:
    Path("mlflow.db").write_bytes(backup.read_bytes())


@pytest.mark.parametrize(
    ("restore", "in_between"), [(_write_back, 0), *map(slow, (_put_back, _put_back, _write_back), (0, 1, 1))]
)
def test_rows_that_a_restored_backup_does_not_have_are_sent_again(
    restore: Callable[[Path], None], in_between: int, sqlite_uri: str
) -> None:
    """In the same process, or in the one that resumes; no close is True before."""
    tracker, backup = MetricsTracker("out"), Path("backup.db")
    for epoch in range(5):
        if epoch == 2:
            shutil.copy("mlflow.db", backup)
        if epoch == 4:
            if in_between:
                tracker.close()
            restore(backup)
            tracker = MetricsTracker("out", resume=True) if in_between else tracker
        _epoch(tracker, epoch)
        tracker.flush()
    assert tracker.close()

    assert points_on_disk("out") == points_in_store(sqlite_uri, tracker.run_id)


class _Raises(logging.Handler):
    """A log handler of the user's with a fault of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


def test_a_log_handler_that_raises_ends_no_thread(server_uri: str) -> None:
    """The outage passes, and everything arrives."""
    handler, log = _Raises(), logging.getLogger("mlflow_ddpm")
    log.addHandler(handler)
    os.environ |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    try:
        with front_of(server_uri) as front:
            tracker = MetricsTracker("out", tracking_uri=front.url)
            _epoch(tracker, 0)
            assert tracker.flush()
            front.become(503)
            _epoch(tracker, 1)
            tracker.flush(1)
            front.become("pass")
            assert tracker.flush(30)
            assert tracker.close(timeout=30)
    finally:
        log.removeHandler(handler)


def test_a_change_of_cause_is_logged(server_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """The outage once, each further cause once, and its end once."""
    os.environ |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with front_of(server_uri) as front:
        tracker = MetricsTracker("out", tracking_uri=front.url)
        _epoch(tracker, 0)
        assert tracker.flush(60)
        causes: tuple[tuple[str | int, str], ...] = (("refuse", "connection"), (401, "(401)"), ("refuse", "connection"))
        for mood, cause in causes:
            front.become(mood)
            _epoch(tracker, tracker.next_epoch)
            for _ in range(60):
                tracker.flush(1)
                if cause in str(tracker._recorder._uploader.last_error):  # type: ignore[union-attr]
                    break
        front.become("pass")
        assert tracker.flush(60)
        tracker.close()

    assert len(_warnings(caplog, "Training continues")) == 1
    assert len(_warnings(caplog, "now for this reason")) == 1
    assert len(_warnings(caplog, "MLflow is back")) == 1


@pytest.mark.parametrize("moods", [slow(("hang",)), slow((500,)), (413,)])
def test_rows_and_the_runs_end_do_not_wait_for_an_artifact_store_that_fails(
    moods: tuple[str | int, ...], server_uri: str
) -> None:
    """Every upload of a file hangs, fails or is refused; the rest arrives in time."""
    os.environ |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with front_of(server_uri) as front:
        front.fail_files(moods[0])
        tracker = MetricsTracker("out", tracking_uri=front.url, experiment_name="files over HTTP")
        for number in range(3):
            _epoch(tracker, number)
            tracker.log_image("grid", GREY, number)
        tracker.close(timeout=8)
        status = MlflowClient(server_uri).get_run(str(tracker.run_id)).info.status
        arrived = points_in_store(server_uri, str(tracker.run_id))
        front.fail_files("pass")
        sync_directory(Path("out"), timeout=30)

    images = MlflowClient(server_uri).list_artifacts(str(tracker.run_id), "metrics/samples")
    assert status == "FINISHED"
    assert arrived == points_on_disk("out")
    assert len(images) == 3


def test_the_same_server_under_a_new_port_gets_files_as_well(server_uri: str) -> None:
    """MLflow keeps the address of a run's artifacts for the whole process."""
    with front_of(server_uri) as front:
        first = MetricsTracker("out", tracking_uri=front.url)
        _epoch(first, 0)
        first.close("KILLED", timeout=20)
    with front_of(server_uri) as other, MetricsTracker("out", tracking_uri=other.url) as again:
        _epoch(again, 1)
        again.log_image("grid", GREY, 1)

    images = MlflowClient(server_uri).list_artifacts(str(first.run_id), "metrics/samples")
    assert [image.path for image in images] == ["metrics/samples/grid_epoch_000001.png"]


def test_live_points_are_sent_and_are_no_rows(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not in the CSV, nor in what is read back. A device that cannot be read, as when it is full, is no outage."""
    from mlflow_ddpm import read_history

    def full() -> list[Point]:
        raise RuntimeError("out of memory")

    tracker = MetricsTracker("out")
    _epoch(tracker, 0)
    tracker._recorder.write_live(full)
    tracker._recorder.write_live(lambda: [Point("live/loss", 0.5, 1_700_000_000_000, 7)])
    _epoch(tracker, 1)
    tracker.close(timeout=30)

    assert not _warnings(caplog, "")
    (point,) = MlflowClient(sqlite_uri).get_metric_history(str(tracker.run_id), "live/loss")
    assert (point.step, point.value) == (7, 0.5)
    assert read_history(str(tracker.run_id))["epoch"].tolist() == [0, 1]
    assert "live/loss" not in read_history(str(tracker.run_id))


def test_status_on_the_command_line_lists_what_is_set_aside(
    sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the cause."""
    with MetricsTracker("out") as tracker:
        _epoch(tracker, 0)
        _missing(tracker)

    assert main(["status", "out"]) == 0
    assert "set aside nothing.txt: " in capsys.readouterr().out


@pytest.mark.parametrize("is_frozen_before", [False, slow(True)])
def test_the_garbage_collector_is_after_the_end_as_it_was(sqlite_uri: str, is_frozen_before: bool) -> None:  # noqa: FBT001
    """A program that has frozen its objects keeps them frozen."""
    if is_frozen_before:
        gc.freeze()
    try:
        with MetricsTracker("out") as tracker:
            _epoch(tracker, 0)
        assert (gc.get_freeze_count() > FROZEN_BY_PYTHON) == is_frozen_before
        assert gc.isenabled()
    finally:
        gc.unfreeze()
