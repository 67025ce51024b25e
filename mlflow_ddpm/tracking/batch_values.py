"""The batch values of one epoch or window, kept where they were made and read once.

No device is read while an epoch runs: a tensor's value is fetched only by :meth:`BatchValues.read`, with one copy for
all tensors of one dtype and device. The values themselves are kept, not running sums, since a median cannot be merged
from moments. A million batches cost 8 bytes a number, 16 where floats and tensors alternate: long tails of Python
objects are folded into arrays, tensors into one tensor on their own device. Tensors of two dtypes are never joined, so
each value stays what it was.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, compress, groupby
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

from mlflow_ddpm.core.metrics import WHOLE_MAX
from mlflow_ddpm.tracking.scalars import Scalar, measured_extras, sample_count, scalar

_FOLD_AT = 1024  # a tail of this many objects is folded into one array or tensor


class EpochBatches(NamedTuple):
    """Batch values as host numbers, in the order of the batches."""

    losses: Sequence[float]  # one a batch
    grad_norms: Sequence[float]  # one for each batch that gave one
    missing_norm: Sequence[int]  # the batches that gave none
    lr: float | None  # the last batch's
    samples: int | None  # None unless every batch had a size
    extras: Mapping[str, Sequence[float]]  # values of each further scalar, one for each batch that gave it


class _Chunk(NamedTuple):
    """Values of one kind, and their places in the series."""

    places: Sequence[int]  # rising
    values: Any  # array('d') or tensor (n,)


# How far a series had come: its chunks and tail, which may grow meanwhile; the place of the tail's first value, and the
# place behind the last. All losses and gradient norms, the last lr, and timed samples. Plain tuples are made fastest.
Extent: TypeAlias = tuple[Sequence[_Chunk], Sequence[Any], int, int]
SoFar: TypeAlias = tuple[Extent, Extent, Any, int | None]


def new_by_kind(extent: Extent, start: int) -> tuple[dict[Any, list[Any]], int]:
    """Return the values from place ``start`` on by kind, and the place behind the last; on any thread.

    Floats and arrays of them are under ``float``, tensors (n,) and () under their dtype and device.
    """
    chunks, tail, tail_start, end = extent
    kinds: dict[Any, list[Any]] = {}
    for places, values in chunks:
        new = slice(bisect_left(places, start), bisect_left(places, tail_start))
        if new.start < new.stop:
            kinds.setdefault(float if isinstance(values, array) else _kind(values), []).append(values[new])
    for value in tail[max(0, start - tail_start) : end - tail_start]:
        kinds.setdefault(_kind(value), []).append(value)
    return kinds, end


class _Series:
    """One scalar a batch, floats and tensors mixed, in order. A tail is empty only before the first value."""

    __slots__ = ("chunks", "folded", "tail")

    def __init__(self) -> None:
        self.chunks: list[_Chunk] = []
        self.folded = 0
        self.tail: list[Any] = []

    def add(self, value: Any) -> None:
        if len(self.tail) == _FOLD_AT:
            self.fold()
        self.tail.append(value)

    def fold(self) -> None:
        """Join the tail's values, those of one kind. The list itself stays as it is: a reading may have it."""
        tail = self.tail
        places = range(self.folded, self.folded + len(tail))
        types = set(map(type, tail))
        kind_of = _tensor_kind if float not in types else type if len(types) == 1 else _kind
        kinds = [kind for kind, _ in groupby(tail, kind_of)]
        if len(kinds) == 1:
            self.chunks.append(_Chunk(places, _join(tail)))
        else:
            for kind in dict.fromkeys(kinds):
                chosen = [_kind(value) == kind for value in tail]
                joined = _join(list(compress(tail, chosen)))
                self.chunks.append(_Chunk(array("q", compress(places, chosen)), joined))
        self.folded, self.tail = places.stop, []

    def all_chunks(self) -> list[_Chunk]:
        self.fold()
        return self.chunks

    def to_host(self, on_host: Mapping[int, Any]) -> array[float]:
        """Return all values in order; ``on_host`` has those of each tensor by its id."""
        whole = array("d")
        for _, values in self.chunks:
            whole.frombytes(memoryview(values if isinstance(values, array) else on_host[id(values)]).cast("B"))
        if all(isinstance(places, range) for places, _ in self.chunks):
            return whole
        in_order = array("d", whole)
        for place, number in zip(chain.from_iterable(places for places, _ in self.chunks), whole, strict=True):
            in_order[place] = number
        return in_order


_tensor_kind = attrgetter("dtype", "device")  # without a call in Python: folding is half of what a tensor costs


def _kind(value: Any) -> Any:
    return float if type(value) is float else _tensor_kind(value)


def _join(values: list[Any]) -> Any:
    if type(values[0]) is float:
        return array("d", values)
    import torch

    return torch.stack(values)  # (n,) on the values' device: queued, not waited for


class BatchValues:
    """Collects what ``log_batch`` or ``log_step`` is given in one epoch or window."""

    def __init__(self) -> None:
        self._loss = _Series()
        self._grad_norm = _Series()
        self._extras: dict[str, _Series] = {}
        self._missing_norm = array("q")  # batches that gave no gradient norm
        self._lr: Any = None
        self._samples = 0
        self._sized = True  # every batch had a size
        self._has_floats_alone = True  # as in most loops: nothing is to be fetched
        self._newest: Any = None  # the last loss that is a tensor, and its count of changes in place
        self._version = 0
        self.is_changed_in_place = False  # some loss is not what it was when it was logged
        self.batches = 0
        self.untimed_batches = self.untimed_samples = 0  # that came before the clock started

    def add(
        self,
        loss: Scalar,
        lr: Scalar | None,
        grad_norm: Scalar | None,
        batch_size: int | None,
        extras: Mapping[str, Scalar | None] | None = None,
    ) -> None:
        """Keep one batch's values; tensors are detached, not read. Raises UsageError for what is no single number."""
        if type(loss) is not float:
            loss, self._has_floats_alone = scalar("loss", loss), False
            self._watch(loss)
        if grad_norm is not None and type(grad_norm) is not float:
            grad_norm, self._has_floats_alone = scalar("grad_norm", grad_norm), False
        if lr is not None and type(lr) is not float:
            lr, self._has_floats_alone = _snapshot_lr(scalar("lr", lr)), False
        if type(batch_size) is not int or not 0 <= batch_size <= WHOLE_MAX:
            batch_size = sample_count(batch_size)
        further = measured_extras(extras) if extras else {}
        # Everything is checked: from here on nothing is refused, so no half of a batch is counted.
        self._loss.add(loss)
        if grad_norm is None:
            self._missing_norm.append(self.batches)
        else:
            self._grad_norm.add(grad_norm)
        if lr is not None:
            self._lr = lr
        if batch_size is None:
            self._sized = False
        else:
            self._samples += batch_size
        self.batches += 1
        if further:
            self.add_extras(further)

    def add_extras(self, extras: Mapping[str, Any]) -> None:
        """Keep further scalars: floats and 0-d tensors."""
        for name, value in extras.items():
            self._has_floats_alone &= type(value) is float
            self._extras.setdefault(name, _Series()).add(value)

    def _watch(self, loss: Any) -> None:
        """Note whether the loss before was changed in place since it was logged; its value now is what counts."""
        if self._newest is not None and self._newest._version != self._version:  # noqa: SLF001 - see below
            self.is_changed_in_place = True
        try:
            self._version, self._newest = loss._version, loss  # noqa: SLF001 - torch documents it under this name
        except (AttributeError, RuntimeError):  # a number, or a tensor of inference mode, which counts no changes
            self._newest = None

    def start_rates(self) -> None:
        """Leave what came so far out of the rates."""
        self.untimed_batches, self.untimed_samples = self.batches, self._samples

    def so_far(self) -> SoFar:
        """Return how far losses and gradient norms have come, the last lr, and the timed samples; nothing is read.

        The learning rate may be a tensor; samples are None unless every batch had a size.
        """
        samples = self._samples - self.untimed_samples if self._sized else None
        loss, norm = self._loss, self._grad_norm
        return (
            (loss.chunks, loss.tail, loss.folded, loss.folded + len(loss.tail)),
            (norm.chunks, norm.tail, norm.folded, norm.folded + len(norm.tail)),
            self._lr,
            samples,
        )

    def read(self) -> EpochBatches:
        """Fetch all values. This is the epoch's one wait for the device."""
        self._watch(None)
        lr = _Series()
        if self._lr is not None:
            lr.tail.append(self._lr)
        series = [self._loss, self._grad_norm, lr, *self._extras.values()]
        is_plain = self._has_floats_alone and not any(one_series.chunks for one_series in series)
        losses, norms, rates, *extras = [one_series.tail for one_series in series] if is_plain else _fetch(series)
        return EpochBatches(
            losses,
            norms,
            self._missing_norm,
            lr=rates[0] if rates else None,
            samples=self._samples if self._sized and self.batches else None,
            extras=dict(zip(self._extras, extras, strict=True)),
        )


def _snapshot_lr(value: Any) -> Any:
    """Return a copy of a tensor: schedulers change the tensor that an optimizer's learning rate may be in place."""
    return value if type(value) is float else value.clone()


def _fetch(series: Sequence[_Series]) -> list[array[float]]:
    """Return each series as one array of float64, with one copy for all tensors of one dtype and device."""
    groups: dict[Any, list[Any]] = {}
    for chunk in (chunk for one_series in series for chunk in one_series.all_chunks()):
        if not isinstance(chunk.values, array):
            groups.setdefault(_kind(chunk.values), []).append(chunk.values)
    on_host: dict[int, Any] = {}
    for tensors in groups.values():
        import torch

        # float64 only on the host: not every device has it
        flat = torch.cat(tensors).cpu().double().numpy()
        ends = accumulate(t.numel() for t in tensors)
        on_host.update((id(t), flat[end - t.numel() : end]) for t, end in zip(tensors, ends, strict=True))
    return [one_series.to_host(on_host) for one_series in series]
