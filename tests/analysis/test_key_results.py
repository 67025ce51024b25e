"""Key results: the same for every run, measured or not, each with its unit and its epoch."""

from __future__ import annotations

import math

from mlflow_ddpm.analysis.key_results import key_results, key_results_table, table_results
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics


def _history(*losses: float | None, **values: float) -> RunHistory:
    return RunHistory.create(
        EpochMetrics(epoch=epoch, loss_mean=loss, logged_at_ms=epoch + 1, extra=values)
        for epoch, loss in enumerate(losses)
    )


def test_best_and_final_loss_are_two_results() -> None:
    """The best is the lowest finite one, with its epoch; the last may be NaN."""
    results = {result.name: result for result in table_results(_history(2.0, 1.0, math.nan))}

    assert (results["best_loss"].value, results["best_loss"].epoch) == (1.0, 1)
    assert (results["final_loss"].text, results["final_loss"].epoch) == ("NaN", 2)
    assert results["gpu_peak_mb"].text == "not measured"


def test_every_run_has_the_same_results_even_one_without_epochs() -> None:
    """A table of several runs needs no gaps to be explained."""
    assert [r.name for r in table_results(_history())] == [r.name for r in table_results(_history(1.0))]


def test_extras_follow_those_of_the_pipeline_first_and_diagnostics_are_no_results() -> None:
    """Under the name that the run recorded."""
    history = _history(1.0, 1.0, **{"zeta": 3.0, "sample_frechet": 5.0, "loss_t/q1": 0.5})

    assert [r.name for r in key_results(history)][-2:] == ["sample_frechet", "zeta"]


def test_the_table_shows_an_extras_last_value_and_its_range() -> None:
    """It does not know which end is good."""
    rows = [EpochMetrics(epoch=epoch, logged_at_ms=epoch, extra={"fid": fid}) for epoch, fid in enumerate((9.0, 4.0))]
    table = key_results_table(RunHistory.create(rows))

    assert table.rows[-1] == ("fid, last", "4 (range 4 to 9)", "1")
