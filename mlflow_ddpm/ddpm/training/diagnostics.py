"""Training diagnostics: loss per noise level, gradient norm per part of the U-Net, update-to-weight ratio.

While an epoch runs, what the batches computed anyway is kept where it lies: no kernel is queued and no value is read.
Every some hundred batches it is folded into a few sums on the device, fetched in one copy.

Letters: B images of a batch, T timesteps, Q noise levels, G parts of the U-Net, P parameter tensors, M batches.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlflow_ddpm.ddpm.training.distributed import Processes
from mlflow_ddpm.tracking.timing import AccumulatingTimer

NOISE_LEVELS = 4  # Q: as many equal ranges of the timestep; the first has least noise
_FOLD_AT = 256  # batches
PARTS = ("embedding", "encoder", "middle", "decoder")
_PART_OF = {
    **dict.fromkeys(("time", "label"), "embedding"),
    **dict.fromkeys(("stem", "down"), "encoder"),
    "middle": "middle",
    **dict.fromkeys(("up", "norm", "head"), "decoder"),
}


class EpochDiagnostics:
    """Collects one epoch of one process; :meth:`read` combines all processes."""

    def __init__(self, model: nn.Module, timesteps: int) -> None:
        """Build for a U-Net on its device, whose noise has ``timesteps`` steps."""
        self.data_timer = AccumulatingTimer()  # for `with`: fetching and preparing batches
        self._timesteps = timesteps
        self._parts = parts_of(model)  # (P,)
        self.start_epoch()

    def start_epoch(self) -> None:
        """Begin an epoch with empty sums."""
        # Rows: noise levels, then parts. Columns: the sum of finite values, how many are finite, how many there are.
        self._sums = torch.zeros(NOISE_LEVELS + len(PARTS), 3, dtype=torch.float64, device=self._parts.device)
        self._losses: list[tuple[Tensor, Tensor]] = []  # of each batch: its images' losses and timesteps, (B,) each
        self._norms: list[Tensor] = []  # (P,) each
        self._update: Tensor | None = None
        self.data_timer.take()

    def add_losses(self, per_image: Tensor, timestep: Tensor) -> None:
        """Keep each image's loss (B,) and timestep (B,)."""
        self._losses.append((per_image.detach(), timestep))

    def add_gradients(self, norms: Tensor) -> None:
        """Keep a batch's gradient norms (P,), and fold when there are many."""
        self._norms.append(norms)
        if len(self._norms) == _FOLD_AT:
            self._fold()

    def add_update(self, ratio: Tensor) -> None:
        """Keep the epoch's :func:`update_to_weight`."""
        self._update = ratio

    def read(self, procs: Processes) -> dict[str, float | None]:
        """Return the epoch's values by metric name. A collective that every process enters once per epoch.

        This waits for the device. Values that are not finite are left out of the means; a mean of nothing else is NaN,
        and of nothing at all None.
        """
        self._fold()
        losses, norms = self._sums.split([NOISE_LEVELS, len(PARTS)])
        losses = procs.sum_over_ranks(losses)  # gradients are the same on every process
        update = self._sums.new_full((1,), math.nan) if self._update is None else self._update.double().view(1)
        host = torch.cat([losses.flatten(), norms.flatten(), update]).tolist()
        means = [_mean(*host[i : i + 3]) for i in range(0, len(host) - 1, 3)]
        names = [f"loss_t/q{level + 1}" for level in range(NOISE_LEVELS)] + [f"grad_part/{part}" for part in PARTS]
        return {
            **dict(zip(names, means, strict=True)),
            "update/weight_ratio": None if self._update is None else host[-1],
            "time/data_sec": self.data_timer.take(),
        }

    @torch.no_grad()
    def _fold(self) -> None:
        if self._losses:
            losses, timesteps = (torch.cat(tensors) for tensors in zip(*self._losses, strict=True))
            level = timesteps * NOISE_LEVELS // self._timesteps
            self._sums.index_add_(0, level, _value_and_counts(losses))
        if self._norms:
            norms = part_norms(torch.stack(self._norms), self._parts)  # (M, G)
            self._sums[NOISE_LEVELS:] += _value_and_counts(norms).sum(0)
        self._losses, self._norms = [], []


def parts_of(model: nn.Module) -> Tensor:
    """Return the position in :data:`PARTS` of each of a U-Net's parameters, (P,) int64, on their device."""
    names = [name.partition(".")[0] for name, _ in model.named_parameters()]
    device = next(model.parameters()).device
    return torch.tensor([PARTS.index(_PART_OF[name]) for name in names], device=device)


def part_norms(norms: Tensor, parts: Tensor) -> Tensor:
    """Return the global norm of each part's gradients, (M, G) float64, from the norms of tensors (M, P)."""
    squares = norms.double().square()
    sums = squares.new_zeros(len(norms), len(PARTS)).index_add_(1, parts, squares)
    return sums.sqrt()


@torch.no_grad()
def update_to_weight(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Return the global L2 norm of a step over that of the weights before it, a 0-d tensor; nothing is waited for.

    The ratio that Karpathy's notes of Stanford's CS231n ("Neural Networks Part 3", on babysitting the learning process)
    suggest to watch, and to expect near 1e-3; here of all parameters together. No weights at all but zeros give inf.
    """
    step = torch._foreach_sub(list(after), list(before))  # noqa: SLF001
    return nn.utils.get_total_norm(step) / nn.utils.get_total_norm(before)


def _value_and_counts(values: Tensor) -> Tensor:
    """Return (..., 3) float64: each value, or 0 if it is not finite; whether it is finite; and one."""
    finite = values.isfinite()
    kept = values.double().where(finite, 0.0)
    return torch.stack([kept, finite.double(), torch.ones_like(kept)], dim=-1)


def _mean(total: float, finite: float, count: float) -> float | None:
    if not count:
        return None
    return total / finite if finite else math.nan
