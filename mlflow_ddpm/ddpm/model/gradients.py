"""Gradients before a step: the norm of each, of each part of the U-Net, and of all, from one pass; and their clipping.

Letters: P parameter tensors, M batches, G parts of the U-Net.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["PARTS", "clip_gradients", "gradient_norms", "part_norms", "parts_of"]

PARTS = ("embedding", "encoder", "middle", "decoder")
_PART_OF = {
    **dict.fromkeys(("time", "label"), "embedding"),
    **dict.fromkeys(("stem", "down"), "encoder"),
    "middle": "middle",
    **dict.fromkeys(("up", "norm", "head"), "decoder"),
}


def parts_of(model: nn.Module) -> Tensor:
    """Return the position in :data:`PARTS` of each of a U-Net's parameters, (P,) int64, on their device."""
    names = [name.partition(".")[0] for name, _ in model.named_parameters()]
    device = next(model.parameters()).device
    return torch.tensor([PARTS.index(_PART_OF[name]) for name in names], device=device)


@torch.no_grad()
def gradient_norms(parameters: Sequence[Tensor]) -> Tensor:
    """Return the L2 norm of each parameter's gradient, (P,); of one without a gradient, 0. Nothing is waited for."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    return torch.stack(torch._foreach_norm(gradients))  # noqa: SLF001 - one call for all, as torch's own clipping has it


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], norms: Tensor, max_norm: float) -> Tensor:
    """Scale all gradients so that their global norm is at most ``max_norm``; return what it was, a 0-d tensor.

    ``norms`` (P,) are those of :func:`gradient_norms`. With ``max_norm`` 0 nothing is scaled. The same numbers as
    ``torch.nn.utils.clip_grad_norm_``, which keeps the norms of the tensors to itself.
    """
    total: Tensor = torch.linalg.vector_norm(norms)
    nn.utils.clip_grads_with_norm_(parameters, max_norm or math.inf, total)
    return total


def part_norms(norms: Tensor, parts: Tensor) -> Tensor:
    """Return the global norm of each part's gradients, (M, G) float64, from the norms of tensors (M, P)."""
    squares = norms.double().square()
    sums = squares.new_zeros(len(norms), len(PARTS)).index_add_(1, parts, squares)
    return sums.sqrt()
