"""How a run ended, and its key results in a few numbers: the same in the JSON, the report and MLflow."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mlflow_ddpm.core.metrics import EpochMetrics


class RunOutcome(NamedTuple):
    """A run's final status, in MLflow's terms, and the reason."""

    status: str  # FINISHED, FAILED or KILLED
    error_type: str = ""
    error_message: str = ""
    at_ms: int | None = None  # None: now


class Summary(NamedTuple):
    """A run's key results. ``None`` where nothing finite was measured; losses are epoch means."""

    epochs: int
    first_epoch: int | None
    last_epoch: int | None
    best_epoch: int | None  # the earliest epoch with the lowest finite loss_mean
    best_loss: float | None
    final_loss: float | None  # the last epoch's; may be NaN
    training_time_sec: float | None  # the sum of the epochs' times
    total_time_sec: float | None  # from the run's start to its end, or to its last row while it runs
    gpu_peak_mb: float | None
    nonfinite_batches: int


def summarise(rows: Iterable[EpochMetrics], run: Mapping[str, Any] | None = None) -> Summary:
    """Sum up the rows, by epoch; ``run`` has its ``start_time_ms`` and, once it has ended, its ``end_time_ms``."""
    rows = list(rows)
    losses = [(row.loss_mean, row.epoch) for row in rows if row.loss_mean is not None and math.isfinite(row.loss_mean)]
    best_loss, best_epoch = min(losses, default=(None, None))
    return Summary(
        epochs=len(rows),
        first_epoch=rows[0].epoch if rows else None,
        last_epoch=rows[-1].epoch if rows else None,
        best_epoch=best_epoch,
        best_loss=best_loss,
        final_loss=rows[-1].loss_mean if rows else None,
        training_time_sec=rows[-1].cumulative_time_sec if rows else None,
        total_time_sec=_total_time(rows, run or {}),
        gpu_peak_mb=max((row.gpu_peak_mb for row in rows if row.gpu_peak_mb is not None), default=None),
        nonfinite_batches=sum(row.nonfinite_batches or 0 for row in rows),
    )


def _total_time(rows: Sequence[EpochMetrics], run: Mapping[str, Any]) -> float | None:
    last_row_ms = max((row.logged_at_ms for row in rows), default=0)
    start, end = _time(run.get("start_time_ms")), _time(run.get("end_time_ms")) or last_row_ms
    return (end - start) / 1000 if 0 < start <= end else None


def _time(value: object) -> float:
    """Return a Unix time, 0 if it is not one: what is known of a run may come from a user or a damaged file."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf else 0
