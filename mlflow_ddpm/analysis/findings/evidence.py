"""What the rules of :mod:`mlflow_ddpm.analysis.findings.rules` look at, and the result that they return."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlflow_ddpm.core.formatting import format_number
from mlflow_ddpm.core.metrics import EpochMetrics, finite_points, value_of

__all__ = ["MIN_EPOCHS", "Evidence", "Told", "epochs_in_words", "short"]

MIN_EPOCHS = 10  # before a rule speaks of a run's course


class Told(NamedTuple):
    """What a rule has to say."""

    sentence: str
    epochs: Sequence[int]


class Evidence:
    """What the rules look at."""

    def __init__(
        self, rows: Sequence[EpochMetrics], environment: Mapping[str, Any], resumed_at_epochs: Sequence[int]
    ) -> None:
        self.rows, self.environment, self.resumed = rows, environment, list(resumed_at_epochs)

    def points(self, name: str) -> list[tuple[int, float]]:
        """Return epoch and value where the metric is finite."""
        return finite_points(self.rows, name)

    def nonfinite(self, name: str) -> list[int]:
        """Return the epochs in which the metric was measured and is not finite."""
        values = ((row.epoch, value_of(row, name)) for row in self.rows)
        return [epoch for epoch, value in values if value is not None and not math.isfinite(value)]


def short(value: float) -> str:
    """Return three significant digits: a finding is no table."""
    return format_number(float(f"{value:.3g}"))


def epochs_in_words(count: int) -> str:
    """Return ``1 epoch``, ``2 epochs``."""
    return "1 epoch" if count == 1 else f"{count} epochs"
