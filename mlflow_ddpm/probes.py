"""What is measured of a model and its device: gradient norm, distance to the EMA, CUDA memory, the end of queued work.

Nothing here imports torch by itself where torch has not been imported: a loop without torch has no device to ask.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_ddpm.errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["CudaMemory", "compute_grad_norm", "ema_distance", "read_cuda_memory", "reset_cuda_peak", "synchronize"]

_MIB = 2**20
# Elements compared at a time, which bounds the scratch memory. On a CPU small chunks stay in its cache and keep the
# error of the float32 sum at 1e-7; elsewhere sums are trees and each chunk costs two kernel launches.
_CHUNK_CPU, _CHUNK = 2**16, 2**24
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

    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients:
        device = next((p.device for p in model.parameters()), None)
        return torch.zeros((), device=device)
    dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    half = [g for g in dense if g.dtype.is_floating_point and g.dtype.itemsize < torch.float32.itemsize]
    if not half:
        return torch.nn.utils.get_total_norm(dense)
    # A bf16 norm has 8 bits of precision, an fp16 one overflows at 65504: these are reduced in float32.
    norms = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in half]
    full = [g for g in dense if g.dtype.itemsize >= torch.float32.itemsize]
    if full:
        norms.append(torch.nn.utils.get_total_norm(full))
    total: torch.Tensor = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
    return total


def ema_distance(model: torch.nn.Module, ema_model: torch.nn.Module | Mapping[str, torch.Tensor]) -> float:
    """Return the global L2 distance between live parameters and their EMA shadow, with one read of the device.

    Takes modules plain, wrapped by DDP or ``torch.compile``, ``torch.optim.swa_utils.AveragedModel``, or a mapping from
    parameter names to tensors. Needs no copy of the model: chunks of at most 2**24 elements are compared in turn.

    Raises:
        UsageError: the shadow lacks a parameter of the model, or has one of another shape.
    """
    import torch

    live = {_bare(name): p for name, p in model.named_parameters()}
    shadow = {_bare(name): t for name, t in _tensors(ema_model)}
    _check_match(live, shadow)
    with torch.no_grad():
        pairs = chain.from_iterable(_chunks(p, shadow[name]) for name, p in live.items())
        squares = [torch.dist(p, q.to(p.device, p.dtype)).double() for p, q in pairs if p.numel()]
        if not squares:
            return 0.0
        return float(torch.linalg.vector_norm(torch.stack([s.to(squares[0].device) for s in squares])))


def _tensors(ema_model: torch.nn.Module | Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(ema_model, Mapping):
        return iter(ema_model.items())
    return ema_model.named_parameters()


def _bare(name: str) -> str:
    """Return a parameter's name without the parts that DDP, AveragedModel and torch.compile put into it."""
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def _chunks(p: torch.Tensor, q: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    size = _CHUNK_CPU if p.device.type == "cpu" else _CHUNK
    return zip(p.reshape(-1).split(size), q.reshape(-1).split(size), strict=True)


def _check_match(live: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor]) -> None:
    missing = [name for name in live if name not in shadow]
    if missing:
        shown = ", ".join(missing[:_MANY]) + (", ..." if len(missing) > _MANY else "")
        raise UsageError(
            f"ema_model must hold every parameter of model; {len(missing)} of {len(live)} are missing: {shown}. "
            "Pass the EMA of this very model"
        )
    for name, p in live.items():
        if p.shape != shadow[name].shape:
            came = tuple(shadow[name].shape)
            raise UsageError(f"ema_model's {name} must have the model's shape {tuple(p.shape)}, got {came}")
