"""Late delivery, resuming and status: what a directory on disk knows of its run, and what MLflow gets of it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.store.tracking.file_store import FileStore
from support.store_faults import play, points_in_store, points_on_disk

from mlflow_ddpm import MetricsTracker, publish_run, read_history
from mlflow_ddpm.analysis.history import load_history
from mlflow_ddpm.cli.main import main
from mlflow_ddpm.core.errors import HistoryError, RunMissingError, UsageError
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.layout import DELIVERY_STATE_NAME
from mlflow_ddpm.storage.mlflow_call import open_sqlite_again
from mlflow_ddpm.storage.run_search import open_store
from mlflow_ddpm.storage.run_target import RunTarget, open_run
from mlflow_ddpm.storage.status import status_of
from mlflow_ddpm.tracking.sync import sync_directory

NOWHERE = "http://127.0.0.1:9"
GREY = np.full((4, 4), 128, np.uint8)


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused port is refused at once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def _images(uri: str, run_id: str) -> list[str]:
    return [f.path for f in MlflowClient(uri).list_artifacts(run_id, "images") if f.path.endswith(".png")]


def test_a_run_that_failed_far_from_any_store_is_delivered_as_it_was(store_uri: str) -> None:
    """Start, end, status, reason, params, tags, metrics and pictures; again makes no second run, point or picture."""
    tracker = MetricsTracker("out", tracking_uri=NOWHERE, config={"lr": 0.1}, tags={"team": "blue"}, run_name="far")
    tracker.start_epoch(0)
    tracker.log_batch(1.0)
    tracker.end_epoch()
    tracker.log_image("grid", GREY, 0)
    tracker._rows.end(RunOutcome("FAILED", "StopError", "luck"), timeout=0.1)
    document = json.loads(Path("out/training_metrics.json").read_bytes())

    for _ in range(3):
        sync_directory(Path("out"), tracking_uri=store_uri)

    (run,) = MlflowClient(store_uri).search_runs(["0"])
    times = (document["run"]["start_time_ms"], document["run"]["end_time_ms"])
    assert (run.info.run_name, run.info.status, run.data.params) == ("far", "FAILED", {"lr": "0.1"})
    assert (run.data.tags["team"], run.data.tags["error.message"]) == ("blue", "luck")
    assert (run.info.start_time, run.info.end_time) == times
    assert points_on_disk("out") == points_in_store(store_uri, run.info.run_id)
    assert len(_images(store_uri, run.info.run_id)) == 1


def test_a_run_that_a_kill_left_half_made_in_a_file_store_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a store writes a run's tags one by one; the one by which we find the run comes first."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    play("out", epochs=3, tracking_uri=NOWHERE, close_sec=0.1)
    key = DeliveryState.load(Path("out")).run_key  # type: ignore[union-attr]
    written: list[str] = []

    def killed_after_one_tag(self: FileStore, run_id: str, tag: Any) -> None:
        if written:
            raise SystemExit
        set_tag(self, run_id, tag)
        written.append(run_id)

    set_tag = FileStore.set_tag
    with monkeypatch.context() as first_life:
        first_life.setattr(FileStore, "set_tag", killed_after_one_tag)
        with pytest.raises(SystemExit):
            open_run(RunTarget(uri, run_key=key), started_at_ms=1, tags={"mlflow.user": "me", "team": "blue"})
    sync_directory(Path("out"), tracking_uri=uri)

    (run,) = MlflowClient(uri).search_runs(["0"])
    assert (run.info.run_id, run.info.status) == (written[0], "FINISHED")
    assert points_on_disk("out") == points_in_store(uri, run.info.run_id)


def test_a_directory_that_lost_its_cursor_goes_on_with_its_run_and_doubles_nothing(store_uri: str) -> None:
    """Hidden files get lost in copying; the JSON names the run, and the store is asked what it has."""
    first = play("out", epochs=3, tracking_uri=store_uri, close_sec=20)
    (Path("out") / DELIVERY_STATE_NAME).unlink()

    again = play("out", epochs=5, tracking_uri=store_uri, close_sec=20, resume=True)

    assert again.tracker.run_id == first.tracker.run_id
    assert points_on_disk("out") == points_in_store(store_uri, again.tracker.run_id)


def test_a_run_can_be_sent_to_another_store_as_well(sqlite_uri: str, empty_database: Path) -> None:
    """A cluster's own sqlite file has it; the team's server gets it, once."""
    play("out", close_sec=20)
    shutil.copy(empty_database, "other.db")
    other = f"sqlite:///{Path('other.db').resolve()}"

    for _ in range(2):
        sync_directory(Path("out"), tracking_uri=other)

    (run,) = MlflowClient(other).search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert points_on_disk("out") == points_in_store(other, run.info.run_id)


def test_a_refused_directory_is_left_untouched(sqlite_uri: str) -> None:
    """To the byte."""
    run_id = play("out", close_sec=20).tracker.run_id
    before = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}

    with pytest.raises(UsageError, match="resume=True"):
        MetricsTracker("out", run_id=run_id)

    after = {path.name: path.read_bytes() for path in Path("out").iterdir() if path.is_file()}
    assert before == after


def test_where_a_run_was_resumed_is_told_in_json_and_tags(sqlite_uri: str) -> None:
    """So that plots can mark it. Resumed at an epoch that was there already, later marks are void."""
    first = play("out", epochs=3, close_sec=20)
    play("out", epochs=5, close_sec=20, resume=True)
    with MetricsTracker("out", resume=True) as tracker:
        tracker.start_epoch(2)
        tracker.log_batch(1.0)
        tracker.end_epoch()

    run = MlflowClient(sqlite_uri).get_run(str(first.tracker.run_id))
    assert json.loads(Path("out/training_metrics.json").read_bytes())["run"]["resumed_at_epochs"] == [2]
    assert run.data.tags["mlflow_ddpm.resumed_at_epochs"] == "2"
    assert open_store(run.info.run_id, sqlite_uri).info()["resumed_at_epochs"] == [2]


def test_pictures_of_a_killed_process_are_delivered_and_a_picture_drawn_anew_is_shown_anew(sqlite_uri: str) -> None:
    """What lies under samples/ and was not acknowledged is sent."""
    code = f"""
import os, numpy as np
from mlflow_ddpm import MetricsTracker
tracker = MetricsTracker("out", tracking_uri={NOWHERE!r})
tracker.start_epoch(0); tracker.log_batch(1.0); tracker.end_epoch()
tracker.log_image("grid", np.zeros((4, 4), np.uint8), 0)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL, timeout=120)
    assert "interrupted" in status_of(Path("out"))
    sync_directory(Path("out"), tracking_uri=sqlite_uri)
    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    delivered = _images(sqlite_uri, run.info.run_id)
    with MetricsTracker("out", tracking_uri=sqlite_uri) as tracker:
        tracker.log_image("grid", GREY, 0)

    assert (run.info.status, len(delivered)) == ("KILLED", 1)
    assert len(_images(sqlite_uri, run.info.run_id)) == 2


def test_odd_names_and_texts_in_config_and_tags_hold_nothing_up(store_uri: str) -> None:
    """Two names that become one, hundreds of params, zero bytes, bytes that are no Unicode."""
    config = {"a@b": 1, "a b": 2, "a%b": 3, "path": os.fsdecode(b"/data/\xff"), "zero": "a\0b", "empty": ""}
    many = {f"p{n}": n for n in range(250)}
    played = play("out", tracking_uri=store_uri, config={**config, **many}, tags={"t@g": "x\0y"}, close_sec=20)

    run = MlflowClient(store_uri).get_run(str(played.tracker.run_id))
    assert run.info.status == "FINISHED"
    assert len(run.data.params) == 255
    assert run.data.tags["t_g"] == "xy"
    assert points_on_disk("out") == points_in_store(store_uri, run.info.run_id)
    json.loads(Path("out/training_metrics.json").read_bytes())


@pytest.mark.skipif(not hasattr(mlflow.environment_variables, "MLFLOW_ALLOW_FILE_STORE"), reason="this MLflow takes it")
def test_an_old_mlruns_folder_gets_a_warning_that_says_what_to_do(
    empty_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It makes MLflow choose its file store, which it then refuses to use."""
    Path("mlruns/0").mkdir(parents=True)
    Path("mlruns/0/meta.yaml").touch()
    with caplog.at_level("WARNING", "mlflow_ddpm"):
        play("out", close_sec=5)
    shutil.copy(empty_database, "mlflow.db")
    uri = f"sqlite:///{Path('mlflow.db').resolve()}"  # MLflow keeps a relative one, whatever the directory is then
    sync_directory(Path("out"), tracking_uri=uri)

    told = [r.getMessage() for r in caplog.records if "Training continues" in r.getMessage()]
    (run,) = MlflowClient(uri).search_runs(["0"])
    assert len(told) == 1
    assert "MLFLOW_ALLOW_FILE_STORE=true" in told[0]
    assert points_on_disk("out") == points_in_store(uri, run.info.run_id)


def test_status_says_what_is_delivered_and_what_waits(sqlite_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """While the run goes on, when it waits for a store, and when all is done."""
    tracker = MetricsTracker("out", tracking_uri=NOWHERE)
    tracker.start_epoch(0)
    tracker.log_batch(1.0)
    tracker.end_epoch()
    live = status_of(Path("out"))
    tracker.close(timeout=0.1)

    assert "a live process writes here" in live
    assert main(["status", "out"]) == 0
    waiting = capsys.readouterr().out
    assert "1 on disk, 0 in MLflow, 1 waiting" in waiting
    assert "mlflow-ddpm sync out" in waiting
    assert main(["sync", "out", "nowhere", "--tracking-uri", sqlite_uri]) == 1  # the first is sent all the same
    assert "out: run" in capsys.readouterr().out
    assert "MLflow has everything" in status_of(Path("out"))
    assert main(["status", "nowhere"]) == 1


@pytest.mark.slow
def test_a_forked_child_that_exits_does_not_end_the_run(sqlite_uri: str) -> None:
    """Such as a data loader's worker, which inherits the tracker and Python's exit hooks."""
    code = """
import os, sys
from mlflow_ddpm import MetricsTracker
tracker = MetricsTracker("out")
if os.fork() == 0:
    sys.exit(3)
os.wait()
tracker.start_epoch(0); tracker.log_batch(1.0); tracker.end_epoch()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss_mean"] == 1.0


@pytest.mark.slow
def test_eight_processes_at_once_on_a_fresh_sqlite_store_make_eight_runs(tmp_path: Path) -> None:
    """MLflow alone crashes there, and can leave the file unusable. What they import is there before they are forked."""
    code = """
import os
import mlflow.store.tracking.sqlalchemy_store
from mlflow_ddpm import MetricsTracker
for n in range(8):
    if not os.fork():
        tracker = MetricsTracker(f"out{n}")
        tracker.start_epoch(0); tracker.log_batch(1.0); tracker.end_epoch()
        os._exit(not tracker.close(timeout=120))
print([os.wait()[1] for _ in range(8)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)

    runs = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_runs(["0"])
    assert done.stdout.splitlines()[-1] == str([0] * 8), done.stderr
    assert ["FINISHED"] * 8 == [run.info.status for run in runs]
    assert [1.0] * 8 == [run.data.metrics["loss_mean"] for run in runs]
    print("8 processes on a fresh sqlite store: 8 runs")


def test_a_sync_to_a_store_that_is_away_fails_within_a_minute_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repeats no line, and does not speak of a training."""
    monkeypatch.setattr("mlflow_ddpm.tracking.sync._AWAY_SEC", 3.0)  # thirty by default
    play("out", epochs=3, tracking_uri=NOWHERE, close_sec=0.1)
    capsys.readouterr()

    began = time.monotonic()
    assert main(["sync", "out"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert time.monotonic() - began < 20
    assert len(lines) == len(set(lines)) == 1
    assert "unavailable" in lines[0]
    assert "raining goes on" not in lines[0]


def test_a_run_that_never_reached_its_store_goes_to_the_one_of_the_settings(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLFLOW_TRACKING_URI is named by the user, the other one is away."""
    play("out", epochs=3, tracking_uri=NOWHERE, close_sec=0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri)

    assert "is complete in MLflow (3 rows)" in sync_directory(Path("out"), timeout=30)


@pytest.mark.parametrize("lost", ["the run", "the store"])
def test_a_store_that_lost_the_run_gets_it_anew_by_the_command_that_the_message_names(
    lost: str, sqlite_uri: str, empty_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All of it, with its first times; nothing is said of rows that the directory lost, which lost none."""
    play("out", epochs=3, close_sec=20)
    Path("mlflow.db").unlink()
    shutil.copy(empty_database, "mlflow.db" if lost == "the run" else "other.db")
    uri = sqlite_uri if lost == "the run" else f"sqlite:///{Path('other.db').resolve()}"
    if lost == "the run":
        open_sqlite_again(uri)
        with pytest.raises(RunMissingError, match=r"`mlflow-ddpm sync out --tracking-uri \S+` makes the run anew"):
            sync_directory(Path("out"))
    sync_directory(Path("out"), tracking_uri=uri, timeout=60)

    (run,) = MlflowClient(uri).search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert points_on_disk("out") == points_in_store(uri, run.info.run_id)
    assert "are lost" not in caplog.text


@pytest.mark.parametrize("lost", ["the end", "the middle", "all hidden files"])
def test_an_emptier_directory_takes_what_mlflow_has_more_and_changes_nothing_there(
    lost: str, sqlite_uri: str, tmp_path: Path
) -> None:
    """A copy from before the last epochs is synced: it is completed; rows, key results and end in MLflow stay."""
    tracker = MetricsTracker("out", tracking_uri=sqlite_uri)
    for epoch in range(4):
        tracker.start_epoch(epoch)
        tracker.log_batch(1.0 / (epoch + 1))
        tracker.end_epoch()
        if epoch == 1:
            tracker.flush()
            shutil.copytree("out", "old", ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
    tracker.close(timeout=30)
    if lost == "the middle":
        table, document = Path("old/training_metrics.csv"), Path("old/training_metrics.json")
        lines = Path("out/training_metrics.csv").read_text().splitlines(keepends=True)
        table.write_text("".join([*lines[:2], lines[4]]))
        document.unlink()
    elif lost == "all hidden files":
        for path in Path("old").glob(".*"):
            path.unlink()
    client = MlflowClient(sqlite_uri)
    before = client.get_run(str(tracker.run_id))

    assert "is complete in MLflow (4 rows)" in sync_directory(Path("old"), tracking_uri=sqlite_uri, timeout=60)

    after = client.get_run(str(tracker.run_id))
    assert (before.info.status, before.info.end_time) == (after.info.status, after.info.end_time)
    assert before.data.metrics == after.data.metrics
    for name in ("training_metrics.csv", "training_metrics.json"):
        assert [row.epoch for row in load_history(Path("old") / name).rows] == [0, 1, 2, 3]
        stored = Path(client.download_artifacts(str(tracker.run_id), f"metrics/{name}", str(tmp_path)))
        assert load_history(stored).rows == load_history(Path("out") / name).rows


@pytest.mark.parametrize(
    ("table", "document", "store"),
    [
        (range(3), range(5), range(2, 7)),
        (range(3), range(3), range(7)),
        (range(2, 7), range(3), range(2, 7)),
        (range(7), range(0), range(0)),
        (range(0), range(0), range(7)),
        (range(7), range(7), [0, 1, 5, 6]),
    ],
)
def test_a_sync_of_a_finished_run_brings_each_epoch_to_csv_json_and_store(
    table: Sequence[int], document: Sequence[int], store: Sequence[int], sqlite_uri: str
) -> None:
    """Whichever of them lost which, after the end; publish does not overwrite what only one of them has."""
    with MetricsTracker("out") as tracker:
        for number in range(7):
            tracker.start_epoch(number)
            tracker.end_epoch(extra={"fid": number})
    run_id, path = str(tracker.run_id), Path("out/training_metrics.json")
    before = read_history("out")
    lines = Path("out/training_metrics.csv").read_text().splitlines(keepends=True)
    Path("out/training_metrics.csv").write_text("".join([lines[0], *(lines[number + 1] for number in table)]))
    content = json.loads(path.read_text())
    content["epochs"] = [row for row in content["epochs"] if row["epoch"] in document]
    path.write_text(json.dumps(content))
    with sqlite3.connect(sqlite_uri.removeprefix("sqlite:///")) as database:
        database.executemany("DELETE FROM metrics WHERE step = ?", [(n,) for n in range(7) if n not in store])
    database.close()
    if set(store) < set(table) | set(document):
        with pytest.raises((UsageError, HistoryError)):
            publish_run(run_id, output_dir="out")

    sync_directory(Path("out"), timeout=60)

    for source in (run_id, "out/training_metrics.csv", path):
        assert before.equals(read_history(source))
    assert "was complete in MLflow (7 rows)" in sync_directory(Path("out"), timeout=60)


@pytest.mark.parametrize("is_state_lost", [False, True])
def test_a_resume_takes_rows_from_mlflow_that_its_files_lost(is_state_lost: bool, sqlite_uri: str) -> None:  # noqa: FBT001
    """Older CSV and JSON were put back; what MLflow had acknowledged says the delivery state, else MLflow."""
    names = ("training_metrics.csv", "training_metrics.json")
    tracker = MetricsTracker("out", tracking_uri=sqlite_uri)
    for epoch in range(4):
        tracker.start_epoch(epoch)
        tracker.end_epoch()
        if epoch == 1:
            tracker.flush()
            older = [(Path("out") / name).read_bytes() for name in names]
    tracker.close("FAILED", timeout=30)
    for name, content in zip(names, older, strict=True):
        (Path("out") / name).write_bytes(content)
    if is_state_lost:
        Path("out/.delivery.json").unlink()

    with MetricsTracker("out", tracking_uri=sqlite_uri) as tracker:
        assert tracker.next_epoch == 4

    assert list(read_history(str(tracker.run_id), tracking_uri=sqlite_uri)["epoch"]) == [0, 1, 2, 3]


def test_a_resume_that_replaces_later_epochs_replaces_the_copy_in_the_store(sqlite_uri: str, tmp_path: Path) -> None:
    """Its epochs are fewer, but newer."""
    for first, epochs in ((0, 4), (1, 2)):
        with MetricsTracker("out", tracking_uri=sqlite_uri, resume=True) as tracker:
            for epoch in range(first, epochs):
                tracker.start_epoch(epoch)
                tracker.log_batch(1.0)
                tracker.end_epoch()

    stored = MlflowClient(sqlite_uri).download_artifacts(
        str(tracker.run_id), "metrics/training_metrics.csv", str(tmp_path)
    )
    assert Path(stored).read_bytes() == Path("out/training_metrics.csv").read_bytes()
    assert not DeliveryState.load(Path("out")).set_aside  # type: ignore[union-attr]


@pytest.mark.slow
def test_the_tables_of_a_new_database_take_no_time_from_a_sync(tmp_path: Path) -> None:
    """They take seconds: more than this sync has."""
    tracker = MetricsTracker("out", tracking_uri=NOWHERE)
    tracker.start_epoch(0)
    tracker.log_batch(1.0)
    tracker.end_epoch()
    tracker.close(timeout=0.1)

    uri = f"sqlite:///{tmp_path / 'new.db'}"
    assert "is complete in MLflow (1 row)" in sync_directory(Path("out"), tracking_uri=uri, timeout=10)


def test_a_file_that_is_set_aside_keeps_no_history_from_being_read_from_the_store(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows are all that a history needs."""
    with MetricsTracker("out", tracking_uri=sqlite_uri) as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(1.0)
        tracker.end_epoch()
        tracker.log_artifact("nothing.txt")
        assert not tracker.flush()
        assert list(read_history(tracker)["epoch"]) == [0]

    assert "reading the history from" not in caplog.text
