"""MLflow's copy of a run's CSV or JSON is read before it is replaced: it may be the fuller one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.csv_file import read_csv
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.tracking.stored_copy import rows_of_stored_copy

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
def test_the_copy_has_the_rows_that_were_sent(sqlite_uri: str, name: str) -> None:
    """To the last bit, so that a directory that lost some gets them back."""
    run, rows = stored_run(sqlite_uri)

    assert rows == list(rows_of_stored_copy(run, name))


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_is_missing_or_damaged_holds_nothing_back(sqlite_uri: str, name: str) -> None:
    """There is nothing to lose in it."""
    run, _ = stored_run(sqlite_uri)
    Path(name).write_text("no history", encoding="utf-8")
    run.log_file(Path(name), "metrics")

    assert not rows_of_stored_copy(run, name)
    assert not rows_of_stored_copy(run, "training_metrics.other.csv")
