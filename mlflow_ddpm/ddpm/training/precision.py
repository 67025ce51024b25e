"""How the U-Net runs in training: at which precision, compiled or not.

Weights, their average, gradients and loss stay float32 in any case. bfloat16 has float32's range: no loss is scaled.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, timestep, labels) -> prediction, float32


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return whether matrix products and convolutions take bfloat16.

    ``auto`` does on a GPU that has units for it, and never on a CPU: without such units steps become slower
    (`tests/bench/run.py --only unet`).
    """
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def compiled(model: nn.Module, wanted: str) -> nn.Module:
    """Return the model, or with ``yes`` the same model behind torch.compile, which traces it at the first batch."""
    return torch.compile(model) if wanted == "yes" else model  # type: ignore[return-value]


def autocast_forward(model: nn.Module, *, bf16: bool, device: torch.device) -> Forward:
    """Return the model's forward pass under autocast, where that is asked for, with its output in float32."""

    def forward(x_t: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted: Tensor = model(x_t, timestep, labels)  # (B, C, S, S)
        return predicted.float()

    return forward
