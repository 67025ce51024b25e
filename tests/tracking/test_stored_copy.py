"""A fuller copy in the store is kept: what MLflow has of a run's CSV or JSON is compared before it is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.errors import ItemRefusedError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.csv_file import read_csv
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.tracking.stored_copy import check_not_fuller

NAMES = ("training_metrics.csv", "training_metrics.json")


def stored_run(uri: str) -> tuple[MlflowRun, list[EpochMetrics]]:
    """A finished run of three epochs, and its rows."""
    with MetricsTracker("out", tracking_uri=uri) as tracker:
        for epoch in range(3):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0)
            tracker.end_epoch()
    return MlflowRun(uri, str(tracker.run_id)), list(read_csv(Path("out/training_metrics.csv")))


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_with_more_epochs_is_kept(sqlite_uri: str, name: str) -> None:
    """The message names how many, and the last of them; with as many epochs or more ours may replace it."""
    run, rows = stored_run(sqlite_uri)
    path = Path("out") / name

    with pytest.raises(ItemRefusedError, match="has 2 epochs that this directory does not have, the last of them 2"):
        check_not_fuller(run, path, rows[:1], None)
    check_not_fuller(run, path, rows, None)
    check_not_fuller(run, path, [*rows, EpochMetrics(epoch=3, logged_at_ms=rows[-1].logged_at_ms + 1)], None)


def test_rows_that_ours_supersede_are_no_loss(sqlite_uri: str) -> None:
    """A resume at epoch 1 made the stored epochs 1 and 2 void."""
    run, rows = stored_run(sqlite_uri)
    again = EpochMetrics(epoch=1, logged_at_ms=rows[-1].logged_at_ms + 1000)

    check_not_fuller(run, Path("out/training_metrics.csv"), [rows[0], again], None)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_is_missing_or_damaged_holds_nothing_back(sqlite_uri: str, name: str) -> None:
    """There is nothing to lose in it."""
    run, _ = stored_run(sqlite_uri)
    Path(name).write_text("no history", encoding="utf-8")
    run.log_file(Path(name), "metrics")

    check_not_fuller(run, Path("out") / name, [], None)
    check_not_fuller(run, Path("out/training_metrics.other.csv"), [], None)
