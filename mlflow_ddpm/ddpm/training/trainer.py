"""One training step: Ho et al. 2020, algorithm 1, on batches of images, with AdamW, clipping and a weight average.

Read it beside :mod:`mlflow_ddpm.ddpm.model.diffusion`, which has the equations.

Letters: G images of a batch over all processes, B images of it on this process, S side of an image in pixels,
T timesteps, P parameter tensors.

All random numbers are a function of (seed, epoch) and drawn for all G images: a resumed run, or one on another number
of processes, sees the same images, noise and timesteps in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.config.groups import OptimConfig
from mlflow_ddpm.ddpm.data.images import LabelledImages, to_model_range
from mlflow_ddpm.ddpm.model import diffusion
from mlflow_ddpm.ddpm.model.ema import Ema
from mlflow_ddpm.ddpm.model.gradients import clip_gradients, gradient_norms
from mlflow_ddpm.ddpm.model.precision import autocast_forward, compiled, uses_bf16
from mlflow_ddpm.ddpm.model.seeds import Purpose, seed_for, seeded_generator
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.training.diagnostics import EpochDiagnostics, update_to_weight
from mlflow_ddpm.ddpm.training.distributed import Processes
from mlflow_ddpm.ddpm.training.epoch_order import EpochOrder

__all__ = ["BatchResult", "Trainer", "build_model", "learning_rate"]


class BatchResult(NamedTuple):
    """What one step gave. ``loss`` and ``grad_norm`` are 0-d tensors on the device, which may not be computed yet."""

    loss: Tensor  # mean over this process's images; over uneven shares, scaled so that the mean over ranks is exact
    lr: float
    grad_norm: Tensor  # global L2 norm before clipping, the same on every rank
    batch_size: int  # this process's images


class _NoiseBatch(NamedTuple):
    """The random numbers of a batch, or of this process's rows of it."""

    timestep: Tensor  # (B,) int64, 0 to T - 1
    eps: Tensor  # (B, 1, S, S) standard normal
    hide_class: Tensor  # (B,) bool


class _LocalBatch(NamedTuple):
    """The images that this process computes the loss of; ``local_size`` 0 is one image with weight 0."""

    x_0: Tensor  # (B, 1, S, S) in [-1, 1]
    labels: Tensor  # (B,) int64; a hidden class is the model's null class
    noise: _NoiseBatch
    local_size: int


def build_model(config: Config, classes: int) -> UNet:
    """Return the U-Net of a resolved configuration, its weights drawn from the run's seed, channels last."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(config.train.seed, Purpose.WEIGHTS))
        model = UNet(
            classes=classes,
            image_size=config.data.image_size or 0,
            base_channels=config.model.base_channels,
            channel_mults=config.model.channel_mults or (1,),
            blocks=config.model.blocks,
            patch_size=config.model.patch_size,
            attention_size=config.model.attention_size,
        )
    # 1.1x (8x8 features) to 1.2x (16x16) the steps per second on a CPU, and the layout that tensor cores need.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def learning_rate(step: int, total_steps: int, optim: OptimConfig) -> float:
    """Return the rate of batch ``step``, from 0: linear up over the warm-up, then half a cosine down to zero."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    done = (step - optim.warmup_steps) / max(total_steps - optim.warmup_steps, 1)
    return optim.lr * (1 + math.cos(math.pi * min(done, 1.0))) / 2


class Trainer:
    """Trains a U-Net on images that lie on the process's device, or on the host where they do not fit there."""

    def __init__(self, config: Config, data: LabelledImages, classes: int, procs: Processes) -> None:
        """Build model, average and optimizer from the start; ``config`` is resolved, ``data`` the training set."""
        self._config, self._procs = config, procs
        self._batch_size = config.train.batch_size or 1
        self._data = data.to(procs.device)
        self._order = EpochOrder(data.labels.to(procs.device), config.data.balance)
        self._alpha_bar = diffusion.cosine_alpha_bar(config.diffusion.timesteps).to(procs.device)  # (T,)
        self.model = build_model(config, classes).to(procs.device)
        self.ema = Ema(self.model, config.optim.ema_decay)
        self.diagnostics = EpochDiagnostics(self.model, config.diffusion.timesteps)
        self.step = 0
        self._parameters = list(self.model.parameters())
        self._parallel = procs.wrap(compiled(self.model, config.train.compile))
        bf16 = uses_bf16(config.train.precision, procs.device)
        self._forward = autocast_forward(self._parallel, bf16=bf16, device=procs.device)
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.optim.lr,
            betas=(config.optim.beta1, config.optim.beta2),
            weight_decay=config.optim.weight_decay,
            fused=True,  # 2x the plain loop on the CPU as well
        )

    @property
    def batches_per_epoch(self) -> int:
        """Batches of an epoch; the last may be smaller, so that every image counts once."""
        return math.ceil(len(self._data.labels) / self._batch_size)

    def train_epoch(self, epoch: int) -> Iterator[BatchResult]:
        """Train one epoch, a batch at each ``next``. Nothing is read from the device."""
        device = self._procs.device
        self.diagnostics.start_epoch()
        with self.diagnostics.data_timer:
            generator = seeded_generator(self._config.train.seed, Purpose.TRAINING, epoch, device=device)
            order = self._order.draw(generator).to(self._data.labels.device)
        self._parallel.train()
        for indices in order.split(self._batch_size):
            yield self._train_step(indices, generator)

    def _train_step(self, indices: Tensor, generator: torch.Generator) -> BatchResult:
        """Take one step on the images of ``indices`` (G,), of which this process computes its rows."""
        with self.diagnostics.data_timer:
            batch = self._local_batch(indices, generator)
        loss_per_image = diffusion.loss_per_image(  # (B,)
            lambda x_t, timestep: self._forward(x_t, timestep, batch.labels),
            batch.x_0,
            batch.noise.eps,
            batch.noise.timestep,
            alpha_bar=self._alpha_bar,
            prediction=self._config.diffusion.prediction,
        )
        if batch.local_size:
            self.diagnostics.add_losses(loss_per_image, batch.noise.timestep)
        loss = loss_per_image.sum() * self._procs.image_weight(batch.local_size, len(indices))
        lr = learning_rate(self.step, self._total_steps(), self._config.optim)
        grad_norm = self._update(loss, lr)
        return BatchResult(loss.detach(), lr, grad_norm, batch.local_size)

    def _update(self, loss: Tensor, lr: float) -> Tensor:
        """Step the weights and their average; return the gradient norm before clipping, a 0-d tensor."""
        loss.backward()
        norms = gradient_norms(self._parameters)  # (P,)
        grad_norm = clip_gradients(self._parameters, norms, self._config.optim.grad_clip)
        self.diagnostics.add_gradients(norms)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._step_optimizer(is_last=(self.step + 1) % self.batches_per_epoch == 0)
        self._optimizer.zero_grad(set_to_none=True)
        self.ema.update()
        self.step += 1
        return grad_norm

    def _step_optimizer(self, *, is_last: bool) -> None:
        """Step the weights; in an epoch's last batch measure the step, which takes one copy of the weights."""
        before = [p.detach().clone() for p in self._parameters] if is_last else []
        self._optimizer.step()
        if is_last:
            self.diagnostics.add_update(update_to_weight(before, self._parameters))

    def _local_batch(self, indices: Tensor, generator: torch.Generator) -> _LocalBatch:
        """Return this process's rows of ``indices`` (G,): images, labels, and noise that every process draws alike."""
        noise = self._draw_noise(len(indices), generator)
        rows, local_size = self._procs.local_rows(len(indices))
        noise = _NoiseBatch(*(drawn[rows] for drawn in noise))
        images, labels = self._data.take(indices[rows], self._procs.device)  # (B, 1, H, W), (B,)
        x_0 = to_model_range(images, self._config.data.image_size or 0)  # (B, 1, S, S)
        labels = labels.masked_fill(noise.hide_class, self.model.null_class)
        return _LocalBatch(x_0, labels, noise, local_size)

    def _draw_noise(self, size: int, generator: torch.Generator) -> _NoiseBatch:
        device, side = self._procs.device, self._config.data.image_size or 0
        timestep = torch.randint(len(self._alpha_bar), (size,), generator=generator, device=device)
        eps = torch.randn(size, 1, side, side, generator=generator, device=device)
        coin = torch.rand(size, generator=generator, device=device)
        return _NoiseBatch(timestep, eps, coin < self._config.diffusion.class_dropout)

    def _total_steps(self) -> int:
        return self.batches_per_epoch * (self._config.train.epochs or 1)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next epoch depends on, besides the configuration."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what :meth:`state_dict` returned."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self._optimizer.load_state_dict(state["optimizer"])
