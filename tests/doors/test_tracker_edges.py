"""What users do with a tracker besides the plain loop."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from mlflow_ddpm import MetricsTracker, generate_all_plots, generate_report, publish_run, read_history
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import HistoryError, MirrorError, StoreRefusedError, UsageError
from mlflow_ddpm.core.strict_json import as_config
from mlflow_ddpm.tracking.shutdown import classify_exit


def _record(tracker: MetricsTracker, *epochs: int, loss: float = 1.0) -> None:
    for epoch in epochs:
        tracker.start_epoch(epoch)
        tracker.log_batch(loss + epoch, lr=0.1)
        tracker.end_epoch()


def _epochs(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [cells["epoch"] for cells in csv.DictReader(file)]


def test_the_journal_stays_where_it_is_when_the_working_directory_changes(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative output_dir is meant from where the tracker was made."""
    (tmp_path / "elsewhere").mkdir()
    with MetricsTracker("out", tracking_uri="sqlite:///mlflow.db") as tracker:
        _record(tracker, 0)
        monkeypatch.chdir("elsewhere")
        _record(tracker, 1)

    assert ["0", "1"] == _epochs(tmp_path / "out/training_metrics.csv")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(read_history(tracker)) == 2


def test_rows_that_make_way_are_kept_aside_and_that_is_said(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that begins anew by mistake in the directory of an unfinished run loses nothing."""
    with MetricsTracker("out") as tracker:
        _record(tracker, 0, 1, 2)
        with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
            _record(tracker, 1, loss=10.0)

    assert ["0", "1"] == _epochs(Path("out/training_metrics.csv"))
    assert ["1", "2"] == _epochs(Path("out/training_metrics.superseded.csv"))
    assert "row 1 is recorded already: rows up to 2 are replaced" in caplog.text


def test_after_close_every_call_on_rank_0_says_so(sqlite_uri: str) -> None:
    """A loop that outlives its tracker would otherwise record nothing, silently. Closing twice is fine."""
    tracker = MetricsTracker("out")
    _record(tracker, 0)
    tracker.close()
    tracker.close()

    for call in (lambda: tracker.start_epoch(1), lambda: tracker.log_batch(1.0), tracker.end_epoch):
        with pytest.raises(UsageError, match="came after the tracker was closed"):
            call()


@dataclass
class Settings:
    """Hyperparameters, as some like them."""

    lr: float
    dtype: Any


@pytest.mark.parametrize(
    "config",
    [
        {"lr": 0.1, "dtype": torch.bfloat16},
        Settings(0.1, torch.bfloat16),
        argparse.Namespace(lr=0.1, dtype=torch.bfloat16),
    ],
)
def test_config_comes_as_mapping_dataclass_or_namespace(sqlite_uri: str, config: object) -> None:
    """All become the same params and the same JSON."""
    with MetricsTracker("out", config=config) as tracker:
        _record(tracker, 0)

    params = MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).data.params
    assert params == {"lr": "0.1", "dtype": "torch.bfloat16"}
    assert json.loads(Path("out/training_metrics.json").read_text())["config"] == {"lr": 0.1, "dtype": "torch.bfloat16"}


@pytest.mark.parametrize("config", [[1], "lr=0.1", 5, Settings])
def test_what_is_no_config_is_refused_by_its_kind(config: object) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match=r"config must be a mapping, a dataclass or an argparse\.Namespace, got"):
        as_config(config)


def test_a_mistyped_run_id_leaves_nothing_behind(sqlite_uri: str) -> None:
    """The next call, with the right one, begins as if nothing had been."""
    with pytest.raises(StoreRefusedError):
        MetricsTracker("out", run_id="f" * 32)
    with MetricsTracker("out") as tracker:
        _record(tracker, 0)

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    assert tracker.run_id == run.info.run_id


@pytest.mark.usefixtures("one_plot")
def test_plots_and_report_of_a_tracker_become_artifacts_of_its_run(sqlite_uri: str) -> None:
    """The specification's usage leaves the specified tree in MLflow as well, table and JSON with all epochs."""
    with MetricsTracker("out") as tracker:
        _record(tracker, 0, 1)
        plots = generate_all_plots(tracker, save_dir="out")
        generate_report(tracker, config={"lr": 0.1}, save_dir="out", plot_paths=plots)

    client = MlflowClient(sqlite_uri)
    logged = {Path(f.path).name: f for f in client.list_artifacts(str(tracker.run_id), "metrics")}
    assert {path.name for path in plots.values()} | {"training_report.md"} <= logged.keys()
    fetched = client.download_artifacts(str(tracker.run_id), "metrics/training_metrics.json")
    assert len(json.loads(Path(fetched).read_text())["epochs"]) == 2
    assert "training_metrics.csv" in logged


def test_two_trackers_share_the_signal_handlers_and_put_them_back(sqlite_uri: str) -> None:
    """Whichever is closed first."""
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    first, second = MetricsTracker("first"), MetricsTracker("second")
    during = signal.getsignal(signal.SIGTERM)
    first.close()
    still = signal.getsignal(signal.SIGTERM)
    second.close()

    assert during is still
    assert during is not before[0]
    assert before == [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]


def test_an_error_from_before_the_tracker_is_not_its_runs(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook a cell may have failed long ago."""
    monkeypatch.setattr(sys, "last_value", ValueError("an earlier cell"), raising=False)
    tracker = MetricsTracker("out")
    _record(tracker, 0)
    tracker._rows.shutdown._on_exit()  # type: ignore[union-attr]

    assert MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("error", "signum", "status"),
    [
        (None, None, "FINISHED"),
        (SystemExit(0), None, "FINISHED"),
        (SystemExit(3), None, "FAILED"),
        (ValueError("x"), None, "FAILED"),
        (KeyboardInterrupt(), None, "KILLED"),
        (SystemExit(143), signal.SIGTERM, "KILLED"),
    ],
)
def test_how_a_training_ends_is_told_in_mlflows_words(
    error: BaseException | None, signum: int | None, status: str
) -> None:
    """An exit with a non-zero status is a failure."""
    assert classify_exit(error, signum).status == status


def test_a_changed_config_is_said_on_resume(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """Params cannot change in MLflow; the JSON and the report take the new values."""
    with MetricsTracker("out", config={"lr": 0.1}) as tracker:
        _record(tracker, 0)
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"), MetricsTracker("out", config={"lr": 0.2}, resume=True):
        pass

    assert "lr was 0.1, is 0.2" in caplog.text


@pytest.mark.parametrize("wrong", [{"batch_size": 4.5}, {"batch_size": -4}, {"grad_norm": "x"}, {"lr": [1]}])
def test_a_refused_batch_does_not_count(sqlite_uri: str, wrong: dict[str, Any]) -> None:
    """Not even half of it."""
    with MetricsTracker("out") as tracker:
        tracker.start_epoch(0)
        with pytest.raises(UsageError):
            tracker.log_batch(**{"loss": 100.0, "batch_size": 4, **wrong})
        with pytest.raises(UsageError, match="must be a real number"):
            tracker.log_batch(torch.tensor(1j))
        tracker.log_batch(1.0, batch_size=4)
        row = tracker.end_epoch()

    assert row is not None
    assert (row.loss_mean, row.loss_max) == (1.0, 1.0)
    assert row.samples_per_sec is not None


@pytest.mark.parametrize("wrong", [object(), {"weight": [1.0]}, {"weight": 3}, torch.nn.Linear(2, 1), [], "ema"])
def test_an_ema_that_cannot_be_used_raises_at_watch_and_is_one_warning_later(
    sqlite_uri: str, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A measurement never ends a training: the row is written without the distance."""
    model = torch.nn.Linear(1, 1, bias=False)
    with MetricsTracker("out") as tracker, caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        with pytest.raises(UsageError, match="ema_model"):
            tracker.watch(model, wrong)
        for epoch in range(3):
            tracker.start_epoch(epoch)
            row = tracker.end_epoch(model=model, ema_model=wrong)

    assert row is not None
    assert row.ema_delta_norm is None
    assert 1 == sum("the EMA distance is not measured" in record.getMessage() for record in caplog.records)


def test_no_history_can_be_made_of_anything_else() -> None:
    """The message names what can be read."""
    for wrong in (None, 5, {"epoch": [1]}):
        with pytest.raises(HistoryError, match="expected a run id, a tracker, an output directory"):
            read_history(wrong)  # type: ignore[arg-type]


def test_a_tracker_without_epochs_can_be_drawn_though_the_store_is_away() -> None:
    """Eleven pictures that say so, rather than a file that is missing."""
    tracker = MetricsTracker("out", tracking_uri="http://127.0.0.1:9")
    try:
        assert len(generate_all_plots(tracker, save_dir="plots")) == 11
    finally:
        tracker.close(timeout=0.1)


def test_publishing_into_a_directory_of_nonsense_is_refused(sqlite_uri: str) -> None:
    """One clear line, and the nonsense stays."""
    Path("out").mkdir()
    Path("out/training_metrics.json").write_text("[]")
    with pytest.raises(MirrorError, match=r"training_metrics\.json"):
        publish_run("0" * 32, output_dir="out")

    assert Path("out/training_metrics.json").read_text() == "[]"


def _write_often(path: Path) -> None:
    for _ in range(50):
        replace_file(path, b"x")


def test_writing_files_from_many_threads_leaves_the_umask_alone(tmp_path: Path) -> None:
    """Files that the user means to be private stay so."""
    before = os.umask(0o077)
    try:
        threads = [threading.Thread(target=_write_often, args=(tmp_path / f"{n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert os.umask(0o077) == 0o077
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.is_file()} == {0o600}
    finally:
        os.umask(before)
