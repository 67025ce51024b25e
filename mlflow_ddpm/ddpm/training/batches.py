"""The batches of an epoch: which images, in which order, with which noise, and which of them this process takes.

Letters: N images of the set, G of a batch over all processes, B of it on this process, S side of an image in pixels.

All random numbers are a function of (seed, epoch) and drawn for all G images: a resumed run, or one on another number
of processes, sees the same images, noise and timesteps in the same order. No value is read from the device.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.data.images import LabelledImages, to_model_range
from mlflow_ddpm.ddpm.seeds import Purpose, seeded_generator
from mlflow_ddpm.ddpm.training.distributed import Processes


class Batch(NamedTuple):
    """The images of which this process computes the loss. ``local_size`` 0 is one image with weight 0."""

    x_0: Tensor  # (B, 1, S, S) in [-1, 1]
    labels: Tensor  # (B,) int64; a hidden class is the model's null class
    timestep: Tensor  # (B,) int64, 0 to T - 1
    eps: Tensor  # (B, 1, S, S) standard normal
    weight: float  # of an image in this process's loss
    local_size: int


class Batches:
    """Draws the batches of each epoch from images on the process's device, or on the host where they do not fit."""

    def __init__(self, config: Config, data: LabelledImages, null_class: int, procs: Processes) -> None:
        """Take a resolved configuration and the training set."""
        self._config, self._null_class, self._procs = config, null_class, procs
        self._size = config.train.batch_size
        self._data = data.to(procs.device)
        self._order = EpochOrder(data.labels.to(procs.device), config.data.balance)

    def __len__(self) -> int:
        """Return the batches of an epoch; the last may be smaller, so that every image counts once."""
        return math.ceil(len(self._data.labels) / self._size)

    def draw(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        generator = seeded_generator(self._config.train.seed, Purpose.TRAINING, epoch, device=self._procs.device)
        order = self._order.draw(generator).to(self._data.labels.device)
        for indices in order.split(self._size):
            yield self._draw_batch(indices, generator)

    def _draw_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Return this process's rows of the images of ``indices`` (G,)."""
        device, count, side = self._procs.device, len(indices), self._config.data.image_size
        timestep = torch.randint(self._config.diffusion.timesteps, (count,), generator=generator, device=device)
        eps = torch.randn(count, 1, side, side, generator=generator, device=device)
        hide_class = torch.rand(count, generator=generator, device=device) < self._config.diffusion.class_dropout
        rows, size, weight = self._procs.share(count)
        images, labels = self._data.take(indices[rows], device)  # (B, 1, H, W), (B,)
        labels = labels.masked_fill(hide_class[rows], self._null_class)
        return Batch(to_model_range(images, side), labels, timestep[rows], eps[rows], weight, size)


class EpochOrder:
    """Draws the indices of an epoch: as many as there are images.

    ``none`` draws every image once. ``classes`` draws every class equally often, but for one image where the numbers
    do not divide, and within a class at random with replacement: large classes are seen in part, small ones repeatedly
    (class-balanced sampling; Kang et al. 2020, section 3).
    """

    def __init__(self, labels: Tensor, balance: str) -> None:
        """Take labels (N,) int64, on the device of the generators."""
        self._size, self._device, self._balance = len(labels), labels.device, balance
        self._by_class = labels.argsort(stable=True)  # (N,) indices, class by class
        _, self._counts = labels.unique(return_counts=True)  # (K,) of the classes that there are

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return an epoch's indices (N,)."""
        order = torch.randperm(self._size, generator=generator, device=self._device)
        if self._balance == "none":
            return order
        classes = torch.randperm(len(self._counts), generator=generator, device=self._device)[order % len(self._counts)]
        # In float64, which cpu and cuda have: float32 would reach only every second image of 2**25.
        within = torch.rand(self._size, generator=generator, device=self._device, dtype=torch.float64)
        rank = (within * self._counts[classes]).long()  # (N,)
        return self._by_class[(self._counts.cumsum(0) - self._counts)[classes] + rank]
