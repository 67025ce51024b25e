"""Key results of a run in a few numbers, updated row by row.

The same fold serves the JSON mirror (one row at a time, during the run) and the report (all rows at once), so
the two cannot disagree. Rows must come in order of epoch; after a resume, fold the kept rows afresh.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_ddpm.core.metrics import EpochMetrics


@dataclass(slots=True)
class Summary:
    """A run's key results. ``None`` where nothing finite was measured; losses are epoch means."""

    epochs: int = 0
    first_epoch: int | None = None
    last_epoch: int | None = None
    best_epoch: int | None = None  # the earliest epoch with the lowest finite loss_mean
    best_loss: float | None = None
    final_loss: float | None = None  # the last epoch's; may be NaN
    training_time_sec: float | None = None  # the sum of the epochs' times
    total_time_sec: float | None = None  # from the run's start to its end, or to its last row while it runs
    gpu_peak_mb: float | None = None
    nonfinite_batches: int = 0

    def add(self, row: EpochMetrics) -> None:
        """Fold in the next epoch's row."""
        self.epochs += 1
        self.first_epoch = row.epoch if self.first_epoch is None else self.first_epoch
        self.last_epoch = row.epoch
        self.final_loss = row.loss_mean
        self.training_time_sec = row.cumulative_time_sec
        self.nonfinite_batches += row.nonfinite_batches or 0
        if row.gpu_peak_mb is not None:
            self.gpu_peak_mb = max(row.gpu_peak_mb, self.gpu_peak_mb or 0.0)
        loss = row.loss_mean
        if loss is not None and math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss):
            self.best_epoch, self.best_loss = row.epoch, loss

    def as_dict(self) -> dict[str, int | float | None]:
        """Return the fields in order."""
        return asdict(self)


def summarise(rows: Iterable[EpochMetrics], run: Mapping[str, Any] | None = None) -> Summary:
    """Fold all rows of a run; ``run`` has its ``start_time_ms`` and, once it has ended, its ``end_time_ms``."""
    summary, last_ms = Summary(), 0
    for row in rows:
        summary.add(row)
        last_ms = max(last_ms, row.logged_at_ms)
    run = run or {}
    start, end = _time(run.get("start_time_ms")), _time(run.get("end_time_ms")) or last_ms
    if start is not None and end >= start:
        summary.total_time_sec = (end - start) / 1000
    return summary


def _time(value: object) -> float | None:
    """Return a Unix time, None if it is not one: what is known of a run may come from a user or a damaged file."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return value
    return None
