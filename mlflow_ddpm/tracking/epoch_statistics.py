"""What an epoch's batches come to: statistics over finite values, on this rank or over all of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking.batch_values import EpochBatches

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


def nonfinite_batches(readings: EpochBatches) -> list[int]:
    """Return which batches, from 0, had a loss or a gradient norm that was not finite."""
    bad = {batch for batch, loss in enumerate(readings.losses) if not math.isfinite(loss)}
    lacks = bytearray(len(readings.losses))
    for batch in readings.without_norm:
        lacks[batch] = True
    normed = (batch for batch, is_without in enumerate(lacks) if not is_without)
    bad |= {batch for batch, norm in zip(normed, readings.grad_norms, strict=True) if not math.isfinite(norm)}
    return sorted(bad)


def statistics(readings: EpochBatches) -> Statistics:
    """Return the epoch's statistics over finite values: NaN where none is finite, None where there is no value."""
    loss = _spread(readings.losses)
    norms, norm = _mean(readings.grad_norms)
    all_finite = loss.finite == len(readings.losses) and norms == len(readings.grad_norms)
    return Statistics(
        loss_mean=loss.mean,
        loss_std=loss.std,
        loss_min=loss.least,
        loss_max=loss.most,
        loss_median=loss.median,
        grad_norm=norm,
        nonfinite_batches=0 if all_finite else len(nonfinite_batches(readings)),
    )


class _Spread(NamedTuple):
    finite: int  # how many values are
    mean: float | None
    std: float | None
    least: float | None
    most: float | None
    median: float | None


def _mean(values: Sequence[float]) -> tuple[int, float | None]:
    """Return how many values are finite, and their mean."""
    finite = sum(map(math.isfinite, values))
    return finite, _sum(filter(math.isfinite, values)) / finite if finite else _no_number(values)


def _spread(values: Sequence[float]) -> _Spread:
    """Return mean, population standard deviation, extremes and median of the finite values.

    Plain Python: an epoch has hundreds of batches, and NumPy's functions take longer to be called than to compute. One
    list is made, for the median; of a million batches it is the largest thing in memory.
    """
    ordered = sorted(filter(math.isfinite, values))
    finite = len(ordered)
    if not finite:
        return _Spread(0, *(_no_number(values),) * 5)
    mean = _sum(ordered) / finite
    variance = _sum((value - mean) * (value - mean) for value in ordered) / finite
    median = (ordered[(finite - 1) // 2] + ordered[finite // 2]) / 2
    return _Spread(finite, mean, math.sqrt(variance), ordered[0], ordered[-1], median)


def _no_number(values: Sequence[float]) -> float | None:
    """Return what stands for a statistic of values of which none is finite."""
    return math.nan if values else None


def _sum(values: Iterable[float]) -> float:
    """Return the sum, rounded once; infinite where float64 ends."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


def mean_over_ranks(readings: EpochBatches) -> EpochBatches:
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
