"""Which images an epoch sees, and in which order: a function of the generator alone, and so of (seed, epoch).

Every process draws the order of all; no image is looked at, and no value is read from the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["EpochOrder"]


class EpochOrder:
    """Draws the indices of an epoch: as many as there are images.

    ``none`` draws every image once. ``classes`` draws every class equally often, but for one image where the numbers
    do not divide, and within a class at random with replacement: large classes are seen in part, small ones repeatedly
    (class-balanced sampling; Kang et al. 2020, section 3).
    """

    def __init__(self, labels: Tensor, balance: str) -> None:
        """Take note of labels (N,) int64, on the device on which generators will be."""
        self._size, self._device = len(labels), labels.device
        if balance == "classes":
            self._by_class = labels.argsort(stable=True)  # (N,) indices, class by class
            _, self._counts = labels.unique(return_counts=True)  # (K,) of the classes that there are
            self._starts = self._counts.cumsum(0) - self._counts  # (K,)
        self._is_balanced = balance == "classes"

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return an epoch's indices (N,)."""
        order = torch.randperm(self._size, generator=generator, device=self._device)
        return self._balanced(order, generator) if self._is_balanced else order

    def _balanced(self, order: Tensor, generator: torch.Generator) -> Tensor:
        classes = torch.randperm(len(self._counts), generator=generator, device=self._device)[order % len(self._counts)]
        # In float64, which cpu and cuda have: float32 would reach only every second image of 2**25.
        within = torch.rand(self._size, generator=generator, device=self._device, dtype=torch.float64)
        rank = (within * self._counts[classes]).long()  # (N,)
        return self._by_class[self._starts[classes] + rank]
