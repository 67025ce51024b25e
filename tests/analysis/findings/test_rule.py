"""What makes a function a rule."""

from __future__ import annotations

from mlflow_ddpm.analysis.findings.rule import RuleHit, rule, short
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics


def test_a_rule_has_the_name_of_its_function() -> None:
    """Title, severity and threshold stand above it."""

    @rule("Too high", "warning", "a loss above 1")
    def too_high(run: RunHistory) -> RuleHit | None:
        return RuleHit("The loss is high.", [epoch for epoch, value in run.points("loss_mean") if value > 1])

    hit = too_high.find(RunHistory.create([EpochMetrics(epoch=3, loss_mean=2.0)]))

    assert too_high[:4] == ("too_high", "Too high", "warning", "a loss above 1")
    assert hit == RuleHit("The loss is high.", [3])


def test_numbers_of_a_finding_have_three_digits() -> None:
    """It is no table."""
    assert [short(value) for value in (0.123456, 12345.6, 2.0)] == ["0.123", "12300", "2"]
