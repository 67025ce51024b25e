"""The batch values of one epoch, kept where they were made and read once.

No device is read while an epoch runs: a tensor's value is fetched only by :meth:`BatchValues.read`, with one
concatenation and one copy for all batches together. The values themselves are kept, not running sums, since a median
cannot be merged from moments. A million batches cost 8 bytes a number: long tails of Python objects are folded into
arrays, tensors into one tensor on their own device.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any, NamedTuple, Protocol

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.extra_metrics import check_extra_names

__all__ = [
    "BatchValues",
    "EpochBatches",
    "Scalar",
    "extra_values",
    "scalar",
]

_FOLD_AT = 1024  # a tail of so many objects is folded into one array or tensor
_REAL: set[Any] = set()  # dtypes of tensors met that are not complex; looking one up costs less than asking torch


class ScalarTensor(Protocol):
    """What is used of a torch tensor; torch itself need not be imported."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""

    @property
    def dtype(self) -> Any:
        """Type of its elements."""

    @property
    def requires_grad(self) -> bool:
        """Whether a graph hangs on it."""


Scalar = float | ScalarTensor


class EpochBatches(NamedTuple):
    """Batch values as host numbers, in the order of the batches."""

    losses: Sequence[float]  # one a batch
    grad_norms: Sequence[float]  # one for each batch that gave one
    without_norm: Sequence[int]  # the batches that gave none
    lr: float | None  # the last batch's
    samples: int | None  # None unless every batch told its size


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

        self._folded.append(torch.stack(values))  # (n,) on the values' device: queued, not waited for

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
        self._without_norm = array("q")  # batches that gave no gradient norm
        self._lr: Any = None
        self._samples = 0
        self._sized = True  # every batch told its size
        self.batches = 0

    def add(self, loss: Scalar, lr: Scalar | None, grad_norm: Scalar | None, batch_size: int | None) -> None:
        """Keep one batch's values; tensors are detached, not read. They must not be changed in place afterwards.

        Raises:
            UsageError: a value is not a number or a tensor of one element.
        """
        if type(loss) is not float:
            loss = scalar("loss", loss)
        if grad_norm is not None and type(grad_norm) is not float:
            grad_norm = scalar("grad_norm", grad_norm)
        if lr is not None and type(lr) is not float:
            lr = _own(scalar("lr", lr))
        if type(batch_size) is not int or batch_size < 0:
            batch_size = _size(batch_size)
        # Everything is checked: from here on nothing is refused, so no half of a batch is counted.
        tail = self._loss.tail
        tail.append(loss)
        if grad_norm is None:
            self._without_norm.append(self.batches)
        else:
            self._grad_norm.tail.append(grad_norm)
        if lr is not None:
            self._lr = lr
        if batch_size is None:
            self._sized = False
        else:
            self._samples += batch_size
        self.batches += 1
        if len(tail) == _FOLD_AT:
            self._loss.fold()
            self._grad_norm.fold()

    def read(self) -> EpochBatches:
        """Fetch all values. This is the epoch's one wait for the device."""
        lr = _Series()
        if self._lr is not None:
            lr.tail.append(self._lr)
        losses, norms, rates = _fetch([self._loss.parts(), self._grad_norm.parts(), lr.parts()])
        samples = self._samples if self._sized and self.batches else None
        return EpochBatches(losses, norms, self._without_norm, rates[0] if rates else None, samples)


def scalar(name: str, value: Any) -> Any:
    """Return ``value`` as a float, or as a 0-d tensor without its graph where it is a tensor."""
    try:
        if value.requires_grad:  # else the batch's whole graph would live on
            value = value.data  # not detach(), which takes nearly twice as long and only adds a count of changes
        if not value.ndim and value.dtype in _REAL:
            return value
    except AttributeError:
        return _number(name, value)
    return _one_element(name, value)


def _own(value: Any) -> Any:
    """Return a copy of a tensor: schedulers change the tensor that an optimizer's learning rate may be in place."""
    return value if type(value) is float else value.clone()


def _one_element(name: str, tensor: Any) -> Any:
    if tensor.dtype.is_complex:
        raise UsageError(f"{name} must be a real number, got a tensor of {tensor.dtype}")
    if tensor.numel() != 1:
        raise UsageError(f"{name} must be one number, got a tensor of shape {tuple(tensor.shape)}; reduce it first")
    _REAL.add(tensor.dtype)
    return tensor.reshape(()) if tensor.ndim else tensor


def _number(name: str, value: Any) -> float:
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
    measured = {name: scalar(f"the extra metric {name!r}", v) for name, v in extra.items() if v is not None}
    return {name: float(value) + 0.0 for name, value in measured.items()}  # no -0.0: sqlite would drop its sign


def _size(batch_size: Any) -> int | None:
    if batch_size is None:
        return None
    try:
        count = int(batch_size.__index__())
    except (AttributeError, TypeError) as error:
        raise UsageError(f"batch_size must be a whole number of samples, got {batch_size!r}") from error
    if count < 0:
        raise UsageError(f"batch_size must be >= 0, got {count}")
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
