"""What is measured of a model and its device: gradient norm, distance to the EMA, CUDA memory, the end of queued work.

Nothing here imports torch by itself where torch has not been imported: a loop without torch has no device to ask.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mlflow_ddpm.core.errors import UsageError

if TYPE_CHECKING:
    import torch

_Pair: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"  # of one parameter: live, shadow

__all__ = ["CudaMemory", "compute_grad_norm", "ema_distance", "read_cuda_memory", "reset_cuda_peak", "synchronize"]

_MIB = 2**20
# Elements compared at a time, which bounds the scratch memory. On a CPU so few stay in the cache, and keep the error of
# torch's float32 norm, 2e-5 at a million elements, below 1e-6 for differences as training makes them (1e-5 if all are
# equal); elsewhere each part costs kernel launches.
_PART_CPU, _PART = 2**16, 2**24
_DTYPE, _DEVICE, _NUMEL = attrgetter("dtype"), attrgetter("device"), methodcaller("numel")
_MANY = 8  # names shown when two models do not match


class CudaMemory(NamedTuple):
    """MiB (2**20 bytes) of one CUDA device, ``None`` where there is none; named as in the table of metrics."""

    gpu_allocated_mb: float | None = None
    gpu_reserved_mb: float | None = None
    gpu_peak_mb: float | None = None


def _cuda(device: Any) -> Any:
    """Return ``torch.cuda`` if the device is a CUDA device in use, else None. Never initialises CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return torch.cuda if device is None or torch.device(device).type == "cuda" else None


def synchronize(device: Any = None) -> None:
    """Wait for the work queued on a CUDA device; return at once where there is none."""
    cuda = _cuda(device)
    if cuda is not None:
        cuda.synchronize(device)


def reset_cuda_peak(device: Any = None) -> None:
    """Start a new peak on a CUDA device; do nothing where there is none."""
    cuda = _cuda(device)
    if cuda is not None:
        cuda.reset_peak_memory_stats(device)


def read_cuda_memory(device: Any = None) -> CudaMemory:
    """Return the memory of a CUDA device now, and its peak since :func:`reset_cuda_peak`."""
    cuda = _cuda(device)
    if cuda is None:
        return CudaMemory()
    told = (cuda.memory_allocated(device), cuda.memory_reserved(device), cuda.max_memory_allocated(device))
    return CudaMemory(*(n / _MIB for n in told))


def compute_grad_norm(model: torch.nn.Module) -> torch.Tensor:
    """Return the global L2 norm of all gradients, as a 0-d tensor on their device; nothing is read or waited for.

    Call it after ``backward()`` and before clipping. Under AMP unscale first (``scaler.unscale_(optimizer)``), or the
    norm is that of the scaled gradients. A loop that clips already has this number: it is what
    ``torch.nn.utils.clip_grad_norm_`` returns. Parameters without a gradient count as zero; sparse gradients count by
    their values; gradients below float32 are summed in float32. Under DDP every rank has the same norm.
    """
    import torch

    gradients = [g for p in model.parameters() if (g := p.grad) is not None]
    if not gradients:
        device = next((p.device for p in model.parameters()), None)
        return torch.zeros((), device=device)
    if {g.layout for g in gradients} != {torch.strided}:
        gradients = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    narrow = {t for t in {g.dtype for g in gradients} if t.is_floating_point and t.itemsize < torch.float32.itemsize}
    if not narrow:
        return torch.nn.utils.get_total_norm(gradients)
    # A bf16 norm has 8 bits of precision, an fp16 one overflows at 65504: these are reduced in float32.
    norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients if g.dtype in narrow]
    wide = [g for g in gradients if g.dtype not in narrow]
    if wide:
        norms.append(torch.nn.utils.get_total_norm(wide))
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
    return total


def ema_distance(model: torch.nn.Module, ema_model: torch.nn.Module | Mapping[str, torch.Tensor]) -> float:
    """Return the global L2 distance between live parameters and their EMA shadow, with one read of the device.

    Takes modules plain, wrapped by DDP or ``torch.compile``, ``torch.optim.swa_utils.AveragedModel``, or a mapping from
    parameter names to tensors. Needs no copy of the model: a bounded number of elements is compared at a time, in the
    wider of both precisions and in float32 at least.

    Raises:
        UsageError: the shadow lacks a parameter of the model, or has one of another shape.
    """
    import torch

    live, shadow = _once(dict(_named(model))), dict(_tensors(ema_model))
    if live.keys() != shadow.keys():
        live, shadow = ({_bare(name): t for name, t in told.items()} for told in (live, shadow))
    _check_match(live, shadow)
    if not live:
        return 0.0
    tensors = [*live.values(), *map(shadow.__getitem__, live)]
    dtypes = set(map(_DTYPE, tensors))
    wide = reduce(torch.promote_types, dtypes, torch.float32)
    # Asked once for all: asking each pair would cost a third of its distance.
    alike = dtypes == {wide} and len(set(map(_DEVICE, tensors))) == 1
    with torch.inference_mode():
        # Room for all results, or more, beforehand: a small one left between large scratches would split the heap.
        room = len(live) + sum(map(_NUMEL, live.values())) // _PART_CPU
        distances = tensors[0].new_zeros(room, dtype=wide.to_real())
        for (p, q), slot in zip(_parts(live, shadow), distances.unbind(), strict=False):
            if alike:
                torch.linalg.vector_norm(p - q, out=slot)
            else:
                slot.copy_(torch.linalg.vector_norm(p.to(wide) - q.to(p.device, wide)))
        return float(torch.linalg.vector_norm(distances.cpu(), dtype=torch.float64))


def _tensors(ema_model: torch.nn.Module | Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(ema_model, Mapping):
        return iter(ema_model.items())
    if not hasattr(ema_model, "named_parameters"):
        raise UsageError(
            "ema_model must be a module or a mapping from parameter names to tensors, got "
            f"{type(ema_model).__name__}; pass the module or the mapping inside it"
        )
    return _named(ema_model)


def _named(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Return the parameters by name, shared ones under each of theirs: finding those takes torch longer than us."""
    import torch

    is_module = isinstance(model, torch.nn.Module)  # else a wrapper of the user's, which may know no such argument
    return model.named_parameters(remove_duplicate=False) if is_module else model.named_parameters()


def _once(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors less those that are there already under an earlier name."""
    if len(set(map(id, tensors.values()))) == len(tensors):
        return tensors
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    return {name: tensors[name] for name in first.values()}


def _bare(name: str) -> str:
    """Return a parameter's name without the parts that DDP, AveragedModel and torch.compile put into it."""
    if "module" not in name and "_orig_mod" not in name:
        return name
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


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


def _check_match(live: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor]) -> None:
    import torch

    if not live.keys() <= shadow.keys():
        missing = [name for name in live if name not in shadow]
        shown = ", ".join(missing[:_MANY]) + (", ..." if len(missing) > _MANY else "")
        raise UsageError(
            f"ema_model must hold every parameter of model; {len(missing)} of {len(live)} are missing: {shown}. "
            "Pass the EMA of this very model"
        )
    for name, p in live.items():
        q = shadow[name]
        if not isinstance(q, torch.Tensor):
            raise UsageError(f"ema_model's {name} must be a torch tensor, got {type(q).__name__}")
        if p.shape != q.shape:
            raise UsageError(f"ema_model's {name} must have the model's shape {tuple(p.shape)}, got {tuple(q.shape)}")
