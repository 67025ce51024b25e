"""What is measured of a model and its device: gradient norm, CUDA memory, the end of queued work.

Nothing here imports torch by itself where torch has not been imported: a loop without torch has no device to ask.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

_MIB = 2**20


class CudaMemory(NamedTuple):
    """MiB (2**20 bytes) of one CUDA device, ``None`` without a device; named as in the table of metrics."""

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
    """Wait for the work queued on a CUDA device; return at once on any other."""
    cuda = _cuda(device)
    if cuda is not None:
        cuda.synchronize(device)


def reset_cuda_peak(device: Any = None) -> None:
    """Start a new peak on a CUDA device; do nothing on any other."""
    cuda = _cuda(device)
    if cuda is not None:
        cuda.reset_peak_memory_stats(device)


def read_cuda_memory(device: Any = None) -> CudaMemory:
    """Return the memory of a CUDA device now, and its peak since :func:`reset_cuda_peak`."""
    cuda = _cuda(device)
    if cuda is None:
        return CudaMemory()
    sizes = (cuda.memory_allocated(device), cuda.memory_reserved(device), cuda.max_memory_allocated(device))
    return CudaMemory(*(size / _MIB for size in sizes))


def compute_grad_norm(model: torch.nn.Module) -> torch.Tensor:
    """Return the global L2 norm of all gradients, as a 0-d tensor on their device; nothing is read or waited for.

    Call it after ``backward()`` and before clipping. Under AMP unscale first (``scaler.unscale_(optimizer)``), or the
    norm is that of the scaled gradients. A loop that clips already has this number: it is what
    ``torch.nn.utils.clip_grad_norm_`` returns. Parameters without a gradient count as zero; sparse gradients count by
    their values; gradients below float32 are summed in float32. Under DDP every rank has the same norm.
    """
    return grad_norm(model.parameters())


def grad_norm(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the norm of these parameters' gradients as :func:`compute_grad_norm`."""
    import torch

    parameters = list(parameters)
    gradients = [g for p in parameters if (g := p.grad) is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device if parameters else None)
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
