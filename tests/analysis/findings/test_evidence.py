"""What rules see of a run, and what makes a function a rule."""

from __future__ import annotations

import math

from mlflow_ddpm.analysis.findings.evidence import RuleHit, RunEvidence, rule, short
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics


def test_points_are_finite_and_what_is_not_has_its_epochs_listed() -> None:
    """Not measured is neither."""
    losses = (1.0, math.nan, None, math.inf, 0.5)
    evidence = RunEvidence(RunHistory.create([EpochMetrics(epoch=i, loss_mean=loss) for i, loss in enumerate(losses)]))

    assert evidence.points("loss_mean") == [(0, 1.0), (4, 0.5)]
    assert evidence.nonfinite("loss_mean") == [1, 3]
    assert evidence.nonfinite("fid") == []


def test_rates_are_per_row_where_rows_are_windows_of_steps() -> None:
    """Numbers of such rows are a window apart, those of epochs one."""
    rows = [EpochMetrics(epoch=epoch, logged_at_ms=epoch) for epoch in (100, 200, 300)]

    assert RunEvidence(RunHistory.create(rows)).row_length == 1.0
    assert RunEvidence(RunHistory.create(rows, run={"every_n_steps": 100})).row_length == 100.0


def test_a_rule_has_the_name_of_its_function() -> None:
    """Title, severity and threshold stand above it."""

    @rule("Too high", "warning", "a loss above 1")
    def too_high(run: RunEvidence) -> RuleHit | None:
        return RuleHit("The loss is high.", [epoch for epoch, value in run.points("loss_mean") if value > 1])

    hit = too_high.find(RunEvidence(RunHistory.create([EpochMetrics(epoch=3, loss_mean=2.0)])))

    assert too_high[:4] == ("too_high", "Too high", "warning", "a loss above 1")
    assert hit == RuleHit("The loss is high.", [3])


def test_numbers_of_a_finding_have_three_digits() -> None:
    """It is no table."""
    assert [short(value) for value in (0.123456, 12345.6, 2.0)] == ["0.123", "12300", "2"]
