"""Measure what diagnostics cost a training step: loss by noise level, gradients by part and the rest.

    python tests/bench/diagnostics.py [--quick]

Two trainers of the default digits run take steps in turn, one of them with clipping by torch alone and nothing
recorded. The clock is the process's CPU time on one thread, which a neighbour disturbs least.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mlflow_ddpm.ddpm.config.config import from_options
from mlflow_ddpm.ddpm.data.loading import load_dataset
from mlflow_ddpm.ddpm.training.batches import Batch
from mlflow_ddpm.ddpm.training.diagnostics import EpochDiagnostics
from mlflow_ddpm.ddpm.training.distributed import Processes
from mlflow_ddpm.ddpm.training.trainer import BatchResult, Trainer, learning_rate, update_average

ALONE = Processes(0, 1, torch.device("cpu"))


class Bare(Trainer):
    """Steps as a loop without diagnostics would."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.diagnostics = Silent()

    def _train_step(self, batch: Batch) -> BatchResult:
        loss = self._loss_per_image(batch).sum() * batch.weight
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(self._parameters, self._config.optim.grad_clip or math.inf)
        lr = learning_rate(self.step, self.batches_per_epoch * self._config.train.epochs, self._config.optim)
        self._update_weights(lr)
        update_average(self._average, self._parameters, self.step, self._config.optim.ema_decay)
        self.step += 1
        return BatchResult(loss.detach(), lr, grad_norm, batch.local_size)

    def _update_weights(self, lr: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)


class Silent(EpochDiagnostics):
    """Keeps nothing."""

    data_timer: Any = contextlib.nullcontext()

    def __init__(self) -> None:
        pass

    def start_epoch(self) -> None:
        """Do nothing."""


def steps_of(trainer: Trainer) -> Iterator[None]:
    """Take a step at each ``next``, epoch after epoch; the diagnostics are read at each epoch's end."""
    for epoch in itertools.count():
        for _ in trainer.train_epoch(epoch):
            yield
        if not isinstance(trainer, Bare):
            trainer.diagnostics.read(ALONE)


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description="Measure what diagnostics cost a training step.")
    parser.add_argument("--quick", action="store_true", help="few steps: shows that it runs, measures nothing")
    epochs = 1 if parser.parse_args().quick else 16
    torch.set_num_threads(1)
    config = from_options({"device": "cpu"}).resolve()
    data = load_dataset(config.data).train
    trainers = [kind(config, data, 10, ALONE) for kind in (Trainer, Bare)]
    recording, bare = (steps_of(trainer) for trainer in trainers)
    batches = trainers[0].batches_per_epoch
    for stream in (recording, bare):
        next(stream)
    # Pairs of whole epochs, so that what comes once an epoch is paid; within a pair the two take turns step by step.
    ratios = [pair[0] / pair[1] for pair in (_epoch_of_each(recording, bare, batches) for _ in range(epochs))]
    parameters = sum(p.numel() for p in trainers[0].model.parameters())
    print(
        f"a training step ({parameters:,} parameters, batch {config.train.batch_size}) with diagnostics, beside the "
        f"same without: {statistics.median(ratios):.4f} x (median of {epochs} epochs of {batches} steps; "
        f"{min(ratios):.4f} to {max(ratios):.4f}); CPU time of one thread"
    )


def _epoch_of_each(recording: Iterator[None], bare: Iterator[None], batches: int) -> tuple[float, float]:
    sums = [0.0, 0.0]
    for step in range(batches):
        for which in (0, 1) if step % 2 else (1, 0):
            began = time.process_time()
            next((recording, bare)[which])
            sums[which] += time.process_time() - began
    return sums[0], sums[1]


if __name__ == "__main__":
    main()
