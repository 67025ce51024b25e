"""What an epoch's batches come to: statistics over finite values, on this rank or over all of them."""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlflow_ddpm.accumulate import Readings
from mlflow_ddpm.errors import UsageError

__all__ = ["Statistics", "mean_over_ranks", "nonfinite_batches", "statistics"]


class Statistics(NamedTuple):
    """What an epoch's row takes from its batches, over finite values; named as in the table of metrics."""

    loss_mean: float | None
    loss_std: float | None
    loss_min: float | None
    loss_max: float | None
    loss_median: float | None
    grad_norm: float | None
    nonfinite_batches: int


def nonfinite_batches(readings: Readings) -> list[int]:
    """Return which batches, from 0, had a loss or a gradient norm that was not finite."""
    bad = {batch for batch, loss in enumerate(readings.losses) if not math.isfinite(loss)}
    bad |= {at for at, n in zip(readings.grad_norm_at, readings.grad_norms, strict=True) if not math.isfinite(n)}
    return sorted(bad)


def statistics(readings: Readings) -> Statistics:
    """Return the epoch's statistics over finite values: NaN where none is finite, None where there is no value."""
    losses, norms = _finite(readings.losses), _finite(readings.grad_norms)
    all_finite = len(losses) == len(readings.losses) and len(norms) == len(readings.grad_norms)
    mean, std, least, most, median = _spread(losses) if losses else (_no_number(readings.losses),) * 5
    return Statistics(
        loss_mean=mean,
        loss_std=std,
        loss_min=least,
        loss_max=most,
        loss_median=median,
        grad_norm=_sum(norms) / len(norms) if norms else _no_number(readings.grad_norms),
        nonfinite_batches=0 if all_finite else len(nonfinite_batches(readings)),
    )


def _finite(values: Sequence[float]) -> list[float]:
    return list(filter(math.isfinite, values))


def _no_number(values: Sequence[float]) -> float | None:
    """Return what stands for a statistic of values of which none is finite."""
    return math.nan if values else None


def _spread(values: list[float]) -> tuple[float, float, float, float, float]:
    """Return mean, population standard deviation, extremes and median of finite values. Sorts them.

    Plain Python: an epoch has hundreds of batches, and NumPy's functions take longer to be called than to compute.
    """
    count = len(values)
    values.sort()
    mean = _sum(values) / count
    deviations = [value - mean for value in values]
    variance = _sum(list(map(operator.mul, deviations, deviations))) / count
    median = (values[(count - 1) // 2] + values[count // 2]) / 2
    return mean, math.sqrt(variance), values[0], values[-1], median


def _sum(values: Sequence[float]) -> float:
    """Return the sum, rounded once; infinite where float64 ends."""
    try:
        return math.fsum(values)
    except OverflowError:
        return sum(values)


def mean_over_ranks(readings: Readings) -> Readings:
    """Return readings whose losses are means over all ranks, batch by batch, and whose samples are the sum.

    A collective: every rank of ``torch.distributed``'s default group must call it once per epoch. Gradient norms and
    the learning rate are the same on every rank under DDP, so this rank's stand.

    Raises:
        UsageError: the ranks did not log the same number of batches. All ranks raise it; none hangs.
    """
    import torch.distributed as dist

    # Python objects carry their own length: a tensor collective over unequal lengths would hang or corrupt.
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, (readings.losses, readings.samples))
    counts = [len(losses) for losses, _ in every]
    if len(set(counts)) > 1:
        raise UsageError(f"every rank must log the same number of batches in an epoch, got {counts} on ranks 0, 1, ...")
    samples = [n for _, n in every]
    # inf - inf is a NaN batch, which is what it should count as
    losses = array("d", [sum(batch) / len(batch) for batch in zip(*(losses for losses, _ in every), strict=True)])
    return readings._replace(losses=losses, samples=None if None in samples else sum(samples))
