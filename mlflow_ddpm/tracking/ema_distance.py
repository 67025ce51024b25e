"""The distance between a model and its EMA, measured at the end of an epoch or window; it never ends a training."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any, TypeAlias

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking.ema_shadow import live_parameters, match_shadow

if TYPE_CHECKING:
    import torch

_Pair: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"  # of one parameter: live, shadow

_log = logging.getLogger("mlflow_ddpm")
# Elements compared at a time, which bounds the scratch memory. On a CPU so few stay in the cache; elsewhere each part
# costs kernel launches.
_PART_CPU, _PART = 2**17, 2**24
# On a CPU torch's float32 norm adds up one square after the other: 3e-6 off here, 8e-5 at 2**17 elements, if all
# differences are equal, as after Adam's first step. Its sum of more squares than these adds them in pairs.
_NORM_MAX = 2**12
_SHARDED = (
    "the parameters are sharded over the ranks (FSDP), and rank 0 measures alone; compute the distance on every rank "
    "and pass it as an extra"
)
_DTYPE, _DEVICE, _NUMEL = attrgetter("dtype"), attrgetter("device"), methodcaller("numel")


def ema_distance(model: torch.nn.Module, ema_model: Any) -> float:
    """Return the global L2 distance between live parameters and their EMA shadow, with one read of the device.

    Parts whose squares overflow are computed again in float64, with a read of each.

    Takes every EMA object that :func:`mlflow_ddpm.tracking.ema_shadow.match_shadow` takes. Frozen parameters that it
    leaves out count as equal. Needs no copy of the model: a bounded number of elements is compared at a time, in the
    wider of both precisions and in float32 at least.

    Raises:
        UsageError: a parameter of the model is missing in the shadow, or has another shape there.
    """
    import torch

    parameters = live_parameters(model)
    shadow = match_shadow(model, ema_model, parameters)
    if not shadow:
        return 0.0
    live = {name: parameters[name] for name in shadow}
    tensors = [*live.values(), *shadow.values()]
    if any(hasattr(kind, "full_tensor") for kind in set(map(type, tensors))):  # FSDP2
        live, shadow = ({name: _whole(tensor) for name, tensor in held.items()} for held in (live, shadow))
        tensors = [*live.values(), *shadow.values()]
    if any("_fsdp_wrapped_module" in name for name in live) and any(map(_has_flat_shards, model.modules())):
        raise UsageError(_SHARDED)
    dtypes = set(map(_DTYPE, tensors))
    wide = reduce(torch.promote_types, (t for t in dtypes if t.itemsize > 1), torch.float32)  # torch widens no fp8
    # Asked once for all: asking each pair would cost a third of its distance.
    alike = dtypes == {wide} and len(set(map(_DEVICE, tensors))) == 1
    with torch.inference_mode():
        norms = _norms(live, shadow, wide, alike=alike)
        if bool(norms.isinf().any()) and tensors[0].device.type != "mps":  # which has no float64
            _mend_overflows(norms, live, shadow, torch.promote_types(wide, torch.float64))
        return float(torch.linalg.vector_norm(norms))


class EmaProbe:
    """Measures the distance of the pair that is watched, or of another one."""

    def __init__(self) -> None:
        self._watched: tuple[Any, Any] | None = None
        self._has_warned = False

    def watch(self, model: torch.nn.Module, ema_model: Any) -> None:
        """Take this pair from now on wherever no other is named; raise UsageError if they do not fit."""
        if isinstance(ema_model, Iterator):  # such as parameters(), which would be empty the next time
            ema_model = list(ema_model)
        try:
            match_shadow(model, ema_model)
        except UsageError:
            raise
        except Exception as error:  # objects of other libraries raise what they like
            raise UsageError(f"the pair cannot be watched: {type(error).__name__}: {error}") from error
        if ranks.rank() == 0 and ranks.world_size() > 1:
            self.measure(model, ema_model)  # warns of sharded parameters now, not after the first row
        self._watched = (model, ema_model)

    def measure(self, model: torch.nn.Module | None = None, ema_model: Any = None) -> float | None:
        """Return the distance; None where nothing is watched or, after one warning, where it cannot be measured."""
        pair = self._watched if ema_model is None else (model, ema_model)
        if pair is None:
            return None
        try:
            return ema_distance(*pair)
        except Exception as error:  # noqa: BLE001 - objects of other libraries raise what they like
            if not self._has_warned:
                self._has_warned = True
                _log.warning(
                    "the EMA distance is not measured: %s; training continues, and further cases are not logged",
                    error if isinstance(error, UsageError) else f"{type(error).__name__}: {error}",
                )
            return None


def _whole(tensor: Any) -> Any:
    """Return a DTensor's values, all of which this rank must have: to gather them takes every rank."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    if tensor.device_mesh.size() > 1 and not all(placement.is_replicate() for placement in tensor.placements):
        raise UsageError(_SHARDED)
    return tensor.to_local()


def _has_flat_shards(module: Any) -> bool:
    """Return whether FSDP1 wraps it, whose shards are plain tensors; in ``summon_full_params()`` its name is gone."""
    return getattr(getattr(module, "_handle", None), "uses_sharded_strategy", False) is True


def _norms(
    live: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor], dtype: torch.dtype, *, alike: bool
) -> torch.Tensor:
    """Return the norm of each part's differences, computed in ``dtype``, which all tensors have if ``alike``.

    They come as float64 on the CPU, with zeros after them.
    """
    import torch

    # Room for all results, or more, beforehand: a small one left between large scratches would split the heap.
    room = len(live) + sum(map(_NUMEL, live.values())) // _PART_CPU
    norms = next(iter(live.values())).new_zeros(room, dtype=dtype.to_real())
    norm_max = _NORM_MAX if norms.is_cpu and not dtype.is_complex else math.inf
    for (p, q), slot in zip(_parts(live, shadow), norms.unbind(), strict=False):
        difference = p - q if alike else p.to(dtype) - q.to(p.device, dtype)
        out = slot if alike else None  # else it may lie on another device
        if difference.numel() <= norm_max:
            norm = torch.linalg.vector_norm(difference, out=out)
        else:
            norm = torch.sum(difference.square_(), dim=None, out=out).sqrt_()
        if out is None:
            slot.copy_(norm)
    return norms.cpu().double()


def _mend_overflows(
    norms: torch.Tensor, live: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> None:
    """Compute the norms that are infinite again in ``dtype``, up to one that stays so: a weight is infinite there."""
    import torch

    is_infinite = norms.isinf().tolist()
    for index, (p, q) in enumerate(_parts(live, shadow)):
        if is_infinite[index]:
            norms[index] = torch.linalg.vector_norm(p.to(dtype) - q.to(p.device, dtype))
            if norms[index].isinf():
                return


def _parts(live: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor]) -> Iterator[_Pair]:
    """Yield views, live and shadow, that cover each element once, none larger than what is compared at a time.

    What does not lie flat is copied, one parameter after the other.
    """
    for name, whole in live.items():
        p, q = whole, shadow[name]
        if p.numel() <= _PART_CPU:
            yield p, q
            continue
        if p.ndim == 4 and not p.is_contiguous():  # noqa: PLR2004 - channels_last: this way it lies flat without a copy
            p, q = p.permute(0, 2, 3, 1), q.permute(0, 2, 3, 1)
        size = _PART_CPU if p.is_cpu else _PART
        yield from zip(p.reshape(-1).split(size), q.reshape(-1).split(size), strict=True)
