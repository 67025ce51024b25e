"""What is measured of a model and its device: gradient norm, distance to the EMA, CUDA memory, the end of queued work.

Nothing here imports torch by itself where torch has not been imported: a loop without torch has no device to ask.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_ddpm.errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["CudaMemory", "compute_grad_norm", "ema_distance", "read_cuda_memory", "reset_cuda_peak", "synchronize"]

_MIB = 2**20
# Elements compared at a time, which bounds the scratch memory: on a CPU it then stays in the cache, elsewhere each part
# costs kernel launches. Elements of one float32 norm: so few keep its error at 1e-7.
_PART_CPU, _PART, _ROW = 2**18, 2**24, 2**16
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

    live = {_bare(name): p for name, p in model.named_parameters()}
    shadow = {_bare(name): t for name, t in _tensors(ema_model)}
    _check_match(live, shadow)
    with torch.no_grad():
        norms = list(_norms(live, shadow))
        if not norms:
            return 0.0
        together = torch.cat([n.to(norms[0].device) for n in norms])
        return float(torch.linalg.vector_norm(together, dtype=torch.float64))


def _tensors(ema_model: torch.nn.Module | Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(ema_model, Mapping):
        return iter(ema_model.items())
    if not hasattr(ema_model, "named_parameters"):
        raise UsageError(
            "ema_model must be a module or a mapping from parameter names to tensors, got "
            f"{type(ema_model).__name__}; pass the module or the mapping inside it"
        )
    return ema_model.named_parameters()


def _bare(name: str) -> str:
    """Return a parameter's name without the parts that DDP, AveragedModel and torch.compile put into it."""
    if "module" not in name and "_orig_mod" not in name:
        return name
    return ".".join(part for part in name.split(".") if part not in ("module", "_orig_mod"))


def _norms(live: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield norms (n,) of differences that cover every parameter once, queued and not waited for."""
    small: list[tuple[torch.Tensor, torch.Tensor]] = []
    elements = 0
    for name, p in live.items():
        count = p.numel()
        if count > _ROW:
            yield from _norms_of_parts(p, shadow[name])
            continue
        small.append((p, shadow[name]))
        elements += count
        if elements > _PART_CPU:
            yield _norms_of_group(small)
            small, elements = [], 0
    if small:
        yield _norms_of_group(small)


def _norms_of_group(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    import torch

    live, shadow = zip(*pairs, strict=True)
    if {t.dtype for t in chain(live, shadow)} != {torch.float32} or len({t.device for t in chain(live, shadow)}) > 1:
        live, shadow = zip(*(_aligned(p, q) for p, q in pairs), strict=True)
    # One call for all, as in the Ema's update.
    norms: Sequence[torch.Tensor] = torch._foreach_norm(torch._foreach_sub(live, shadow))  # noqa: SLF001
    if len({norm.dtype for norm in norms}) > 1 or len({norm.device for norm in norms}) > 1:
        norms = [norm.to(norms[0].device, torch.float64) for norm in norms]
    return torch.stack(list(norms))


def _norms_of_parts(p: torch.Tensor, q: torch.Tensor) -> Iterator[torch.Tensor]:
    import torch

    if p.ndim == 4 and not p.is_contiguous():  # noqa: PLR2004 - channels_last: this way it lies flat without a copy
        p, q = p.permute(0, 2, 3, 1), q.permute(0, 2, 3, 1)
    size = _PART_CPU if p.is_cpu else _PART
    scratch = None  # one for all parts: an allocator that gives back and takes anew each time costs more than the maths
    for part, beside in zip(p.reshape(-1).split(size), q.reshape(-1).split(size), strict=True):
        a, b = _aligned(part, beside)
        scratch = torch.empty_like(a) if scratch is None else scratch[: len(a)]
        torch.sub(a, b, out=scratch)
        whole = len(a) // _ROW * _ROW
        yield torch.linalg.vector_norm(scratch[:whole].view(-1, _ROW), dim=1)
        if whole < len(a):
            yield torch.linalg.vector_norm(scratch[whole:]).view(1)


def _aligned(p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both on the first's device, in the wider precision of the two and no less than float32."""
    import torch

    if p.dtype is q.dtype is torch.float32 and p.device == q.device:
        return p, q
    dtype = torch.promote_types(torch.promote_types(p.dtype, q.dtype), torch.float32)
    return p.to(dtype), q.to(p.device, dtype)


def _check_match(live: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor]) -> None:
    missing = [name for name in live if name not in shadow]
    if missing:
        shown = ", ".join(missing[:_MANY]) + (", ..." if len(missing) > _MANY else "")
        raise UsageError(
            f"ema_model must hold every parameter of model; {len(missing)} of {len(live)} are missing: {shown}. "
            "Pass the EMA of this very model"
        )
    for name, p in live.items():
        if not isinstance(shadow[name], type(p.detach())):
            raise UsageError(f"ema_model's {name} must be a torch tensor, got {type(shadow[name]).__name__}")
        if p.shape != shadow[name].shape:
            came = tuple(shadow[name].shape)
            raise UsageError(f"ema_model's {name} must have the model's shape {tuple(p.shape)}, got {came}")
