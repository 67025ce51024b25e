"""Which directory a training takes: with real runs in it, finished, published, locked or of other settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.ddpm.config.config import Config, from_options
from mlflow_ddpm.ddpm.output_dir import check_output_dir, choose_output_dir, mark_published, plan_output_dir

OURS, OTHER = Config().resolve(), from_options({"lr": 0.5}).resolve()
FIRST, SECOND = Path("runs/digits"), Path("runs/digits-2")


def record(directory: Path, uri: str, status: str = "FINISHED") -> None:
    """Leave a run of one epoch, of our settings."""
    tracker = MetricsTracker(directory, tracking_uri=uri, config=OURS.as_dict())
    tracker.start_epoch(0)
    tracker.log_batch(1.0)
    tracker.end_epoch()
    tracker.close(status)


@pytest.mark.parametrize("status", ["KILLED", "FINISHED"])
def test_the_same_settings_continue_a_run_until_it_is_published(sqlite_uri: str, status: str) -> None:
    """Other settings get a directory of their own."""
    assert choose_output_dir(OURS) == FIRST
    record(FIRST, sqlite_uri, status)
    assert (choose_output_dir(OURS), choose_output_dir(OTHER)) == (FIRST, SECOND)
    mark_published(FIRST)
    assert choose_output_dir(OURS) == (SECOND if status == "FINISHED" else FIRST)


def test_a_new_run_of_mlflow_gets_a_new_directory(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``mlflow run`` has made one already."""
    record(FIRST, sqlite_uri, "KILLED")
    monkeypatch.setenv("MLFLOW_RUN_ID", "ab" * 16)

    assert choose_output_dir(OURS) == SECOND


def test_processes_that_train_together_need_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """They could not agree on one."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(UsageError, match="name the directory they share with --output-dir DIR"):
        choose_output_dir(OURS)


def test_a_finished_run_is_refused_whatever_its_settings_unless_it_is_resumed(sqlite_uri: str) -> None:
    """Of our settings and not yet published, what is left is made."""
    record(FIRST, sqlite_uri)

    assert plan_output_dir(FIRST, OURS, resume=False).endswith("its plots and report are made")
    with pytest.raises(UsageError, match=r"runs/digits holds the finished run \w+; choose another"):
        plan_output_dir(FIRST, OTHER, resume=False)
    with pytest.raises(UsageError, match=r"runs/digits holds the finished run \w+; choose another"):
        check_output_dir(FIRST, resume=False)
    mark_published(FIRST)
    with pytest.raises(UsageError, match="holds the finished run of these settings"):
        plan_output_dir(FIRST, OURS, resume=False)
    assert plan_output_dir(FIRST, OURS, resume=True) == "runs/digits"
    check_output_dir(FIRST, resume=True)


def test_a_directory_that_cannot_be_written_is_named(sqlite_uri: str) -> None:
    """A file in its place, or another writer."""
    Path("taken").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="taken is a file"):
        plan_output_dir(Path("taken/below"), OURS, resume=False)
    with (
        MetricsTracker(FIRST, tracking_uri=sqlite_uri),
        pytest.raises(UsageError, match="runs/digits is being written by another process"),
    ):
        plan_output_dir(FIRST, OURS, resume=False)
