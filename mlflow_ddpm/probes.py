"""What is measured of a model and its device: gradient norm, distance to the EMA, CUDA memory, the end of queued work.

Nothing here imports torch by itself where torch has not been imported: a loop without torch has no device to ask.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from mlflow_ddpm.errors import UsageError

if TYPE_CHECKING:
    import torch

_Pair: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"  # of one parameter: live, shadow
_Scratch: TypeAlias = "dict[tuple[torch.dtype, torch.device], torch.Tensor]"

__all__ = ["CudaMemory", "compute_grad_norm", "ema_distance", "read_cuda_memory", "reset_cuda_peak", "synchronize"]

_MIB = 2**20
# Elements compared at a time, which bounds the scratch memory: on a CPU it then stays in the cache and keeps float32's
# error below 1e-6, elsewhere each part costs kernel launches. Tensors up to _SMALL elements, where a call takes longer
# than its work, go many in one call, up to _GROUP elements together.
_PART_CPU, _PART = 2**17, 2**24
_SMALL, _GROUP = 2**14, 2**18
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
    with torch.no_grad():
        squares = list(_squares(live, shadow))
        if len({(s.device, s.dtype) for s in squares}) > 1:
            squares = [s.to(squares[0].device, torch.float64) for s in squares]
        return math.sqrt(float(torch.stack(squares).sum(dtype=torch.float64))) if squares else 0.0


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


def _squares(live: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield squared distances, 0-d, that cover every parameter once; they are queued and not waited for."""
    small: list[_Pair] = []
    elements = 0
    scratch: _Scratch = {}
    largest = max((p.numel() for p in live.values()), default=0)
    for name, p in live.items():
        count = p.numel()
        if count > _SMALL:
            yield from _squares_of_parts(p, shadow[name], scratch, largest)
            continue
        small.append((p, shadow[name]))
        elements += count
        if elements > _GROUP:
            yield from _squares_of_group(small, scratch, largest)
            small, elements = [], 0
    if small:
        yield from _squares_of_group(small, scratch, largest)


def _squares_of_group(pairs: Sequence[_Pair], scratch: _Scratch, largest: int) -> list[torch.Tensor]:
    import torch
    from torch._utils import _flatten_dense_tensors

    live, shadow = zip(*pairs, strict=True)
    if {t.dtype for t in chain(live, shadow)} != {torch.float32} or len({t.device for t in chain(live, shadow)}) > 1:
        return [square for p, q in pairs for square in _squares_of_parts(p, q, scratch, largest)]
    difference = _flatten_dense_tensors(live).sub_(_flatten_dense_tensors(shadow))
    return [difference.dot(difference)]


def _squares_of_parts(p: torch.Tensor, q: torch.Tensor, scratch: _Scratch, largest: int) -> list[torch.Tensor]:
    import torch

    if p.ndim == 4 and not p.is_contiguous():  # noqa: PLR2004 - channels_last: this way it lies flat without a copy
        p, q = p.permute(0, 2, 3, 1), q.permute(0, 2, 3, 1)
    size = min(_PART_CPU if p.is_cpu else _PART, largest)
    p, q = p.reshape(-1), q.reshape(-1)
    parts = zip(p.split(size), q.split(size), strict=True) if p.numel() > size else ((p, q),)
    squares = []
    for part, beside in parts:
        a, b = _aligned(part, beside)
        difference = torch.sub(a, b, out=_room(scratch, a, size))
        squares.append(difference.dot(difference))
    return squares


def _room(scratch: _Scratch, like: torch.Tensor, size: int) -> torch.Tensor:
    """Return a tensor as long as ``like``, its values still unset; kept, ``size`` elements long, for the next part.

    An allocator that gives back and takes anew each time costs more than the mathematics.
    """
    key = like.dtype, like.device
    if key not in scratch:
        scratch[key] = like.new_empty(size)
    return scratch[key][: like.numel()]


def _aligned(p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both on the first's device, in the wider precision of the two and no less than float32."""
    import torch

    if p.dtype is q.dtype is torch.float32 and p.device == q.device:
        return p, q
    dtype = torch.promote_types(torch.promote_types(p.dtype, q.dtype), torch.float32)
    return p.to(dtype), q.to(p.device, dtype)


def _check_match(live: Mapping[str, torch.Tensor], shadow: Mapping[str, torch.Tensor]) -> None:
    import torch

    missing = [name for name in live if name not in shadow]
    if missing:
        shown = ", ".join(missing[:_MANY]) + (", ..." if len(missing) > _MANY else "")
        raise UsageError(
            f"ema_model must hold every parameter of model; {len(missing)} of {len(live)} are missing: {shown}. "
            "Pass the EMA of this very model"
        )
    for name, p in live.items():
        if not isinstance(shadow[name], torch.Tensor):
            raise UsageError(f"ema_model's {name} must be a torch tensor, got {type(shadow[name]).__name__}")
        if p.shape != shadow[name].shape:
            came = tuple(shadow[name].shape)
            raise UsageError(f"ema_model's {name} must have the model's shape {tuple(p.shape)}, got {came}")
