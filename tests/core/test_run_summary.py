"""Key results of a run: above all the two times that a person may mean by "how long did it take"."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import summarise

ROWS = [
    EpochMetrics(epoch=0, epoch_time_sec=2.0, cumulative_time_sec=2.0, logged_at_ms=1_003_000),
    EpochMetrics(epoch=1, epoch_time_sec=3.0, cumulative_time_sec=5.0, logged_at_ms=1_008_000),
]


def test_training_time_is_the_sum_of_epochs_and_total_time_is_start_to_end() -> None:
    """Sampling, evaluation, checkpoints and pauses are in the total alone."""
    summary = summarise(ROWS, {"start_time_ms": 1_000_000, "end_time_ms": 1_060_000})

    assert (summary.training_time_sec, summary.total_time_sec) == (5.0, 60.0)


def test_the_total_of_a_run_that_still_runs_ends_at_its_last_row() -> None:
    """A report that is made before the run is closed has a total time as well."""
    assert summarise(ROWS, {"start_time_ms": 1_000_000, "end_time_ms": None}).total_time_sec == 8.0


@pytest.mark.parametrize("start", [None, "yesterday", True, -1, float("nan"), float("inf"), 2_000_000, [1]])
def test_a_start_that_is_no_time_gives_no_total(start: Any) -> None:
    """Nothing invents one: a frame has no start, and a file may be damaged."""
    summary = summarise(ROWS, {"start_time_ms": start})

    assert (summary.training_time_sec, summary.total_time_sec) == (5.0, None)
