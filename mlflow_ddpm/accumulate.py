"""The batch values of one epoch, kept where they were made and read once.

No device is read while an epoch runs: a tensor's value is fetched only by :meth:`BatchValues.read`, with one
concatenation and one copy for all batches together. The values themselves are kept, not running sums, since a median
cannot be merged from moments. A million batches cost 8 bytes a number: long tails of Python objects are folded into
arrays, tensors into one tensor on their own device.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple, Protocol

from mlflow_ddpm.errors import UsageError
from mlflow_ddpm.metrics import check_extra_names

__all__ = [
    "BatchValues",
    "Readings",
    "Scalar",
    "Statistics",
    "extra_values",
    "mean_over_ranks",
    "nonfinite_batches",
    "scalar",
    "statistics",
]

_FOLD_AT = 1024  # a tail of so many objects is folded into one array or tensor


class ScalarTensor(Protocol):
    """What is used of a torch tensor; torch itself need not be imported."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""

    def detach(self) -> Any:
        """Return it cut off from the graph."""


Scalar = float | ScalarTensor


class Readings(NamedTuple):
    """Batch values as host numbers, in the order of the batches."""

    losses: Sequence[float]  # one a batch
    grad_norms: Sequence[float]  # one for each batch that gave one
    grad_norm_at: Sequence[int]  # the batch of each of those
    lr: float | None  # the last batch's
    samples: int | None  # None unless every batch told its size


class Statistics(NamedTuple):
    """What an epoch's row takes from its batches, over finite values; named as in the table of metrics."""

    loss_mean: float | None
    loss_std: float | None
    loss_min: float | None
    loss_max: float | None
    loss_median: float | None
    grad_norm: float | None
    nonfinite_batches: int


class _Series:
    """One scalar a batch, floats and tensors mixed, in order."""

    __slots__ = ("_folded", "tail")

    def __init__(self) -> None:
        self._folded: list[Any] = []  # array('d') or tensor (n,)
        self.tail: list[Any] = []

    def fold(self) -> None:
        tail, self.tail = self.tail, []
        kinds = set(map(type, tail))
        try:
            if len(kinds) == 1 or float not in kinds:
                self._fold_run(tail)
                return
        except RuntimeError:  # torch stacks tensors of one device only; asking each for its own would cost more
            pass
        for _, run in groupby(tail, key=_place):
            self._fold_run(list(run))

    def _fold_run(self, values: list[Any]) -> None:
        if not values:
            return
        if type(values[0]) is float:
            self._folded.append(array("d", values))
            return
        import torch

        folded = torch.stack(values)  # (n,) on the values' device: queued, not waited for
        if folded.is_complex():
            raise UsageError(f"a batch's value must be a real number, got a tensor of {folded.dtype}")
        self._folded.append(folded)

    def parts(self) -> list[Any]:
        self.fold()
        return self._folded


def _place(value: Any) -> Any:
    return float if type(value) is float else value.device


class BatchValues:
    """Collects what ``log_batch`` is given in one epoch."""

    def __init__(self) -> None:
        self._loss = _Series()
        self._grad_norm = _Series()
        self._grad_norm_at = array("q")
        self._lr: Any = None
        self._samples: int | None = 0
        self.batches = 0

    def add(self, loss: Scalar, lr: Scalar | None, grad_norm: Scalar | None, batch_size: int | None) -> None:
        """Keep one batch's values; tensors are detached, not read. They must not be changed in place afterwards.

        Raises:
            UsageError: a value is not a number or a tensor of one element.
        """
        loss = loss if type(loss) is float else scalar("loss", loss)
        if grad_norm is not None and type(grad_norm) is not float:
            grad_norm = scalar("grad_norm", grad_norm)
        if lr is not None and type(lr) is not float:
            lr = scalar("lr", lr)
        if batch_size is not None and (type(batch_size) is not int or batch_size < 0):
            batch_size = _whole("batch_size", batch_size)
        # Everything is checked: from here on nothing is refused, so no half of a batch is counted.
        self._loss.tail.append(loss)
        if grad_norm is not None:
            self._grad_norm.tail.append(grad_norm)
            self._grad_norm_at.append(self.batches)
        if lr is not None:
            self._lr = lr
        self._samples = None if batch_size is None or self._samples is None else self._samples + batch_size
        self.batches += 1
        if not self.batches % _FOLD_AT:
            self._loss.fold()
            self._grad_norm.fold()

    def read(self) -> Readings:
        """Fetch all values. This is the epoch's one wait for the device."""
        lr = _Series()
        if self._lr is not None:
            lr.tail.append(self._lr)
        losses, norms, rates = _fetch([self._loss.parts(), self._grad_norm.parts(), lr.parts()])
        samples = self._samples if self.batches else None
        return Readings(losses, norms, self._grad_norm_at, rates[0] if rates else None, samples)


def scalar(name: str, value: Any) -> Any:
    """Return ``value`` as a float, or as a detached 0-d tensor where it is a tensor."""
    if hasattr(value, "detach"):
        value = value.detach() if value.requires_grad else value  # else the batch's whole graph would live on
        if not value.ndim:
            return value
        if value.numel() != 1:
            raise UsageError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}; reduce it first")
        return value.reshape(())
    if isinstance(value, str | bytes):
        raise UsageError(f"{name} must be a number or a 0-d tensor, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} must be a number or a 0-d tensor, got {value!r}") from error


def extra_values(extra: Mapping[str, Scalar | None]) -> dict[str, float]:
    """Return extra metrics as floats, less those that are None.

    Raises:
        UsageError: MLflow would refuse a name, or it is taken; or a value is no single number.
    """
    check_extra_names(extra)
    return {name: _real(f"the extra metric {name!r}", v) for name, v in extra.items() if v is not None}


def _real(name: str, value: Any) -> float:
    try:
        return float(scalar(name, value)) + 0.0  # no -0.0: sqlite would drop its sign
    except RuntimeError as error:  # torch makes no float of a complex number
        raise UsageError(f"{name} must be a real number, got {value!r}") from error


def _whole(name: str, value: Any) -> int:
    try:
        count = int(value.__index__())
    except (AttributeError, TypeError) as error:
        raise UsageError(f"{name} must be a whole number of samples, got {value!r}") from error
    if count < 0:
        raise UsageError(f"{name} must be >= 0, got {count}")
    return count


def _fetch(series: Sequence[list[Any]]) -> list[array[float]]:
    """Return each series as one array of float64; all tensors of one device come over in a single copy."""
    tensors = [part for parts in series for part in parts if not isinstance(part, array)]
    host: dict[int, Any] = {}
    for _, group in groupby(sorted(tensors, key=lambda t: str(t.device)), key=lambda t: t.device):
        import torch

        of_device = list(group)
        # cat promotes bf16, fp16 and fp32 to the widest among them, exactly; float64 only on the host, as not every
        # device has it.
        flat = torch.cat(of_device).cpu().double().numpy()
        ends = list(accumulate(t.numel() for t in of_device))
        host.update((id(t), flat[end - t.numel() : end]) for t, end in zip(of_device, ends, strict=True))
    return [_joined([part if isinstance(part, array) else host[id(part)] for part in parts]) for parts in series]


def _joined(parts: list[Any]) -> array[float]:
    whole = array("d")
    for part in parts:
        whole.frombytes(memoryview(part).cast("B"))
    return whole


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
