"""Statistics of one epoch's or window's batches over finite values, of this rank or of all ranks."""

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking.batch_values import EpochBatches

_SCALE_ABOVE, _SCALE = 1e280, 2.0**-128  # sums of as many as a run has stay within float64 below it, or scaled by it
_Spread = tuple[float | None, float | None, float | None, float | None, float | None]


class Statistics(NamedTuple):
    """What a row takes from its batches, over finite values; named as in the table of metrics."""

    loss_mean: float | None
    loss_std: float | None
    loss_min: float | None
    loss_max: float | None
    loss_median: float | None
    grad_norm: float | None
    nonfinite_batches: int
    skipped_steps: int


def nonfinite_batches(batches: EpochBatches) -> list[int]:
    """Return which batches, from 0, had a loss or a gradient norm that was not finite."""
    return sorted({*_nonfinite_losses(batches), *_nonfinite_norms(batches)})


def statistics(batches: EpochBatches) -> Statistics:
    """Return the statistics over finite values: NaN where none is finite, None where there is no value."""
    all_finite = all(map(math.isfinite, batches.losses)) and all(map(math.isfinite, batches.grad_norms))
    bad_losses = set() if all_finite else _nonfinite_losses(batches)
    bad_norms = set() if all_finite else _nonfinite_norms(batches)
    return Statistics(
        *_spread(batches.losses),
        grad_norm=finite_mean(batches.grad_norms),
        nonfinite_batches=len(bad_losses | bad_norms),
        skipped_steps=len(bad_norms - bad_losses),
    )


def _nonfinite_losses(batches: EpochBatches) -> set[int]:
    return {batch for batch, loss in enumerate(batches.losses) if not math.isfinite(loss)}


def _nonfinite_norms(batches: EpochBatches) -> set[int]:
    missing = bytearray(len(batches.losses))
    for batch in batches.missing_norm:
        missing[batch] = True
    normed = (batch for batch, is_missing in enumerate(missing) if not is_missing)
    return {batch for batch, norm in zip(normed, batches.grad_norms, strict=True) if not math.isfinite(norm)}


def finite_mean(values: Sequence[float]) -> float | None:
    """Return the mean of the finite values; NaN where none is finite, None where there is no value."""
    finite = list(filter(math.isfinite, values))
    return _mean(finite) if finite else _no_number(values)


def _spread(values: Sequence[float]) -> _Spread:
    """Return mean, population standard deviation, least, most and median of the finite values.

    Plain Python: an epoch has hundreds of batches, and NumPy's functions take longer to be called than to compute. One
    tuple is made, for the median; of a million batches it is the largest thing in memory.
    """
    ordered = tuple(sorted(filter(math.isfinite, values)))
    finite = len(ordered)
    if not finite:
        no_number = _no_number(values)
        return no_number, no_number, no_number, no_number, no_number
    least, most = ordered[0] + 0.0, ordered[-1] + 0.0  # no -0.0: sqlite would drop its sign
    median = ordered[(finite - 1) // 2] * 0.5 + ordered[finite // 2] * 0.5
    scale = _SCALE if max(-least, most) > _SCALE_ABOVE else 1.0
    scaled = ordered if scale == 1.0 else tuple(value * scale for value in ordered)
    mean = math.fsum(scaled) / finite
    std = math.dist(scaled, (mean,) * finite) / math.sqrt(finite)
    return mean / scale, std / scale, least, most, median


def _mean(values: Sequence[float]) -> float:
    """Return the mean of finite values, whose sum is rounded once; it never overflows."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:
        return math.fsum(value * _SCALE for value in values) / len(values) / _SCALE


def _no_number(values: Sequence[float]) -> float | None:
    """Return what stands for a statistic of values of which none is finite."""
    return math.nan if values else None


def mean_over_ranks(batches: EpochBatches) -> EpochBatches:
    """Return batches whose losses are means over all ranks, batch by batch, and whose samples are the sum.

    A collective: every rank of ``torch.distributed``'s default group must have come, once per epoch or window. Gradient
    norms and the learning rate are the same on every rank under DDP, so this rank's stand.

    Raises:
        UsageError: the ranks did not log the same number of batches. All of them raise.
    """
    import torch.distributed as dist

    # Python objects carry their own length: a tensor collective over unequal lengths would hang or corrupt.
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, (batches.losses, batches.samples))
    counts = [len(losses) for losses, _ in every]
    if len(set(counts)) > 1:
        raise UsageError(f"every rank must log the same number of batches in an epoch, got {counts} on ranks 0, 1, ...")
    samples = [n for _, n in every]
    losses = array("d", map(_mean_of_ranks, zip(*(losses for losses, _ in every), strict=True)))
    return batches._replace(losses=losses, samples=None if None in samples else sum(samples))


def _mean_of_ranks(losses: Iterable[float]) -> float:
    """Return the mean of one batch's losses; inf - inf is a NaN batch, which is what it should count as."""
    values = list(losses)
    return _mean(values) if all(map(math.isfinite, values)) else sum(values) / len(values)
