"""What a rule is, what it looks at, and the result that it returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.formatting import format_number
from mlflow_ddpm.core.metrics import EpochMetrics, finite_points, value_of

MIN_EPOCHS = 10  # before a rule judges a run's course


class RuleHit(NamedTuple):
    """The result of a rule that found something."""

    sentence: str
    epochs: Sequence[int]


class RunEvidence:
    """One run as the rules see it."""

    def __init__(self, history: RunHistory) -> None:
        self.rows: Sequence[EpochMetrics] = history.rows
        self.environment: Mapping[str, Any] = history.environment
        self.resumed = list(history.resumed_at_epochs)
        # Rates are per row where rows are windows of steps, else per epoch.
        self.row_length = history.spacing if history.axis_label == "Step" else 1.0

    def points(self, name: str) -> list[tuple[int, float]]:
        """Return epoch and value where the metric is finite."""
        return finite_points(self.rows, name)

    def nonfinite(self, name: str) -> list[int]:
        """Return the epochs in which the metric was measured and is not finite."""
        values = ((row.epoch, value_of(row, name)) for row in self.rows)
        return [epoch for epoch, value in values if value is not None and not math.isfinite(value)]


class Rule(NamedTuple):
    """One thing to look for."""

    name: str
    title: str
    severity: str  # error, warning or info
    threshold: str  # as the docs and the report state it
    find: Callable[[RunEvidence], RuleHit | None]


def rule(title: str, severity: str, threshold: str) -> Callable[[Callable[[RunEvidence], RuleHit | None]], Rule]:
    """Make the function below a rule of its name."""
    return lambda find: Rule(find.__name__, title, severity, threshold, find)


def short(value: float) -> str:
    """Return three significant digits: a finding is no table."""
    return format_number(float(f"{value:.3g}"))
