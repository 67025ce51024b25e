"""A plain loop that trains what the frameworks train in the tests, and notes each batch: what they should record."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import TensorDataset

__all__ = ["ACCUMULATE", "BATCH_SIZE", "CLIP", "DECAY", "LR", "ROWS", "Step", "dataset", "new_model", "train"]

ROWS, BATCH_SIZE, ACCUMULATE = 35, 5, 3  # 7 batches an epoch: its last step has one micro-batch only
LR, DECAY, CLIP = 0.1, 0.9, 0.05


class Step(NamedTuple):
    """One optimizer step of the loop."""

    losses: list[float]  # of its micro-batches
    grad_norm: float  # before clipping
    lr: float

    @property
    def loss(self) -> float:
        """Mean of its micro-batches."""
        return sum(self.losses) / len(self.losses)


def dataset() -> TensorDataset:
    """Return the same data at each call."""
    return TensorDataset(torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1)))


def new_model() -> nn.Module:
    """Return the same model at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))


def train(epochs: int, *, divisor: int | None = ACCUMULATE, accumulate: int = ACCUMULATE) -> list[Step]:
    """Train and return the steps. ``divisor`` of a micro-batch's loss: None is the number that its step really has."""
    model, (data,) = new_model(), dataset().tensors
    parameters = list(model.parameters())
    steps: list[Step] = []
    for _ in range(epochs):
        batches = list(data.split(BATCH_SIZE))
        for start in range(0, len(batches), accumulate):
            micro_batches = batches[start : start + accumulate]
            losses = [model(batch).square().mean() for batch in micro_batches]
            total = torch.stack(losses).sum() / (divisor or len(micro_batches))
            gradients = torch.autograd.grad(total, parameters)
            norm = torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()
            lr = LR * DECAY ** len(steps)
            with torch.no_grad():
                for p, g in zip(parameters, gradients, strict=True):
                    p.sub_(lr * g * min(1.0, CLIP / float(norm)))
            steps.append(Step([float(loss.detach()) for loss in losses], float(norm), lr))
    return steps
