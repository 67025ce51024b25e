"""What one panel shows of a run: the metric, and how its values are meant to be seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.extra_metrics import axis_label, metric
from mlflow_ddpm.plotting.series import Series, changes, rate_name, series

EARLY, _RARE = 0.1, 0.02  # how many of the rows may run off scale: of a loss (it falls by decades at first), of others
_GIB_FROM, _MIB_TO_GIB = 10 * 1024, 1 / 1024  # MiB


class Quantity(NamedTuple):
    """What is drawn of each run, in its own picture and in a comparison."""

    metric: str
    missing_reason: str  # why it may not have been measured
    max_outlier_share: float = _RARE
    from_zero: bool = False
    has_best: bool = False  # the lowest value gets a star
    is_log: bool = False
    is_change: bool = False  # from the row before
    is_rate: bool = False  # in batches where no run knows its batch sizes
    spread: str = ""  # the metric that a comparison draws as a band to either side
    lower: str = ""  # a further metric of a run's own picture, which its axis has to reach

    def in_runs(self, histories: Iterable[RunHistory]) -> Quantity:
        """Return the quantity with the metric that there is; one unit serves all runs of a picture."""
        return self._replace(metric=rate_name(*histories)) if self.is_rate else self

    def label(self, unit: str = "") -> str:
        """Return the label of the value axis."""
        if unit:
            return f"{metric(self.metric).label} ({unit})"
        return f"Change of {axis_label(self.metric).lower()}" if self.is_change else axis_label(self.metric)

    def of(self, history: RunHistory) -> Series:
        """Return what is drawn of a run."""
        values = series(history, self.metric)
        return changes(values) if self.is_change else values


def memory_unit(name: str, drawn: Iterable[Series]) -> tuple[str, float]:
    """Return the unit of a metric's axis and the factor to it: GiB in place of MiB from 10 GiB on."""
    unit = metric(name).unit
    highest = max((float(np.max(values.finite)) for values in drawn if len(values.finite)), default=0.0)
    return ("GiB", _MIB_TO_GIB) if unit == "MiB" and highest >= _GIB_FROM else (unit, 1.0)
