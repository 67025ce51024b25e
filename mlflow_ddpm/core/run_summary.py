"""Key results of a run in a few numbers, updated row by row.

The same fold serves the JSON mirror (one row at a time, during the run) and the report (all rows at once), so
the two cannot disagree. Rows must come in order of epoch; after a resume, fold the kept rows afresh.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from mlflow_ddpm.core.metrics import EpochMetrics

__all__ = ["Summary", "summarise"]


@dataclass(slots=True)
class Summary:
    """A run's key results. ``None`` where nothing finite was measured; losses are epoch means."""

    epochs: int = 0
    first_epoch: int | None = None
    last_epoch: int | None = None
    best_epoch: int | None = None  # the earliest epoch with the lowest finite loss_mean
    best_loss: float | None = None
    final_loss: float | None = None  # the last epoch's; may be NaN
    total_time_sec: float | None = None
    gpu_peak_mb: float | None = None
    nonfinite_batches: int = 0

    def add(self, row: EpochMetrics) -> None:
        """Fold in the next epoch's row."""
        self.epochs += 1
        self.first_epoch = row.epoch if self.first_epoch is None else self.first_epoch
        self.last_epoch = row.epoch
        self.final_loss = row.loss_mean
        self.total_time_sec = row.cumulative_time_sec
        self.nonfinite_batches += row.nonfinite_batches or 0
        if row.gpu_peak_mb is not None:
            self.gpu_peak_mb = max(row.gpu_peak_mb, self.gpu_peak_mb or 0.0)
        loss = row.loss_mean
        if loss is not None and math.isfinite(loss) and (self.best_loss is None or loss < self.best_loss):
            self.best_epoch, self.best_loss = row.epoch, loss

    def as_dict(self) -> dict[str, int | float | None]:
        """Return the fields in order."""
        return asdict(self)


def summarise(rows: Iterable[EpochMetrics]) -> Summary:
    """Fold all rows of a run."""
    summary = Summary()
    for row in rows:
        summary.add(row)
    return summary
