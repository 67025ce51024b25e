"""The moving average of a model's weights, with which samples are drawn."""

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Ema(Generic[M]):
    """Averages a model's parameters: after update s the shadow is ``d shadow + (1 - d) live``.

    ``d = min(ema_decay, (1 + s) / (10 + s))``: the warm-up forgets the random start, which a short run never would.
    """

    def __init__(self, live: M, ema_decay: float) -> None:
        """Start from a copy of ``live``, on its device; move ``live`` before, not after."""
        self.model: M = copy.deepcopy(live).eval().requires_grad_(requires_grad=False)
        self.ema_decay = ema_decay
        self.updates = 0
        self._live: list[Tensor] = list(live.parameters())
        self._shadow: list[Tensor] = list(self.model.parameters())

    @torch.no_grad()
    def update(self) -> None:
        """Take the live weights of this moment into the average."""
        decay = min(self.ema_decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self._shadow, self._live, 1 - decay)  # one pass over all tensors
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the shadow's tensors and the number of updates."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]
