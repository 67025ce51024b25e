"""Training: Ho et al. 2020, algorithm 1, on batches of images, with AdamW, clipping and a weight average.

Read it beside :mod:`mlflow_ddpm.ddpm.model.diffusion`, which has the equations.

Letters: B images of a batch on this process, S side of an image in pixels, T timesteps, P parameter tensors.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.config.groups import OptimConfig
from mlflow_ddpm.ddpm.data.images import LabelledImages
from mlflow_ddpm.ddpm.model import diffusion
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.seeds import Purpose, seed_for
from mlflow_ddpm.ddpm.training.batches import Batch, Batches
from mlflow_ddpm.ddpm.training.diagnostics import EpochDiagnostics, update_to_weight
from mlflow_ddpm.ddpm.training.distributed import Processes


class BatchResult(NamedTuple):
    """What one step gave. ``loss`` and ``grad_norm`` are 0-d tensors on the device, which may not be computed yet."""

    loss: Tensor  # mean over this process's images; over uneven shares, scaled so that the mean over ranks is exact
    lr: float
    grad_norm: Tensor  # global L2 norm before clipping, the same on every rank
    batch_size: int  # this process's images


class Trainer:
    """Trains a U-Net on images; ``model`` has the live weights, ``ema_model`` their average."""

    def __init__(self, config: Config, data: LabelledImages, classes: int, procs: Processes) -> None:
        """Build model, average and optimizer from the start; ``config`` is resolved, ``data`` the training set."""
        self._config, optim = config, config.optim
        self._alpha_bar = diffusion.cosine_alpha_bar(config.diffusion.timesteps).to(procs.device)  # (T,)
        self.model = build_model(config, classes).to(procs.device)
        self.ema_model = copy.deepcopy(self.model).eval().requires_grad_(requires_grad=False)
        self.step = 0
        self._batches = Batches(config, data, self.model.null_class, procs)
        self._parameters: list[Tensor] = list(self.model.parameters())
        self._average: list[Tensor] = list(self.ema_model.parameters())
        self._parallel = procs.wrap(torch.compile(self.model) if config.train.compile == "yes" else self.model)  # type: ignore[arg-type]
        self._bf16 = uses_bf16(config.train.precision, procs.device)
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            weight_decay=optim.weight_decay,
            fused=True,  # 2x the plain loop on the CPU as well
        )
        self.diagnostics = EpochDiagnostics(self.model, config.diffusion.timesteps)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch; the last may be smaller, so that every image counts once."""
        return len(self._batches)

    def train_epoch(self, epoch: int) -> Iterator[BatchResult]:
        """Train one epoch, a batch at each ``next``. Nothing is read from the device."""
        self.diagnostics.start_epoch()
        self._parallel.train()
        batches = self._batches.draw(epoch)
        for _ in range(self.batches_per_epoch):
            with self.diagnostics.data_timer:
                batch = next(batches)
            yield self._train_step(batch)

    def _train_step(self, batch: Batch) -> BatchResult:
        """Take one step: the loss of a batch, its gradient, clipped, and what follows from it for the weights."""
        loss_per_image = self._loss_per_image(batch)  # (B,)
        loss = loss_per_image.sum() * batch.weight
        loss.backward()
        norms = gradient_norms(self._parameters)  # (P,)
        grad_norm = clip_gradients(self._parameters, norms, self._config.optim.grad_clip)
        lr = learning_rate(self.step, self.batches_per_epoch * self._config.train.epochs, self._config.optim)
        self._update_weights(lr)
        update_average(self._average, self._parameters, self.step, self._config.optim.ema_decay)
        self.step += 1
        if batch.local_size:
            self.diagnostics.add_losses(loss_per_image, batch.timestep)
        self.diagnostics.add_gradients(norms)
        return BatchResult(loss.detach(), lr, grad_norm, batch.local_size)

    def _loss_per_image(self, batch: Batch) -> Tensor:
        """Return the loss of each image, (B,), at the batch's noise and timesteps.

        Weights, their average, gradients and loss are float32 in any case. bfloat16 has its range: no loss is scaled.
        """

        def predict(x_t: Tensor, timestep: Tensor) -> Tensor:
            with torch.autocast(x_t.device.type, torch.bfloat16, enabled=self._bf16):
                predicted: Tensor = self._parallel(x_t, timestep, batch.labels)  # (B, C, S, S)
            return predicted.float()

        return diffusion.loss_per_image(
            predict,
            batch.x_0,
            batch.eps,
            batch.timestep,
            alpha_bar=self._alpha_bar,
            prediction=self._config.diffusion.prediction,
        )

    def _update_weights(self, lr: float) -> None:
        """Step the optimizer; in an epoch's last batch measure the step, which takes one copy of the weights."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        is_last = (self.step + 1) % self.batches_per_epoch == 0
        before = [p.detach().clone() for p in self._parameters] if is_last else []
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if is_last:
            self.diagnostics.add_update(update_to_weight(before, self._parameters))

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next epoch depends on, besides the configuration."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": {"model": self.ema_model.state_dict(), "updates": self.step},  # as earlier versions read it
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.ema_model.load_state_dict(state["ema"]["model"])
        self._optimizer.load_state_dict(state["optimizer"])


def build_model(config: Config, classes: int) -> UNet:
    """Return the U-Net of a resolved configuration, its weights drawn from the run's seed, channels last."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(config.train.seed, Purpose.WEIGHTS))
        model = UNet(classes=classes, image_size=config.data.image_size, **asdict(config.model))
    # 1.1x (8x8 features) to 1.2x (16x16) the steps per second on a CPU, and the layout that tensor cores need.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Return whether matrix products and convolutions take bfloat16.

    ``auto`` does on a GPU that has units for it, and never on a CPU: without such units steps become slower
    (`tests/bench/run.py --only unet`).
    """
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def learning_rate(step: int, total_steps: int, optim: OptimConfig) -> float:
    """Return the rate of batch ``step``, from 0: linear up over the warm-up, then half a cosine down to zero."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(total_steps - optim.warmup_steps, 1)
    return optim.lr * (1 + math.cos(math.pi * min(done, 1.0))) / 2


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


@torch.no_grad()
def update_average(average: list[Tensor], live: list[Tensor], step: int, ema_decay: float) -> None:
    """Take the weights after batch ``step``, from 0, into their average: ``average = d average + (1 - d) live``.

    ``d = min(ema_decay, (1 + s) / (10 + s))``: the warm-up forgets the random start, which a short run never would.
    """
    decay = min(ema_decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(average, live, 1 - decay)  # one pass over all tensors
