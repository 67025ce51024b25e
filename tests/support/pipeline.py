"""What tests of the pipeline share: runs of seconds, a tracker that only records, kills, and rows read back."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.ddpm.config.config import Config, from_options
from mlflow_ddpm.ddpm.data.loading import load_dataset
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.training.distributed import Processes
from mlflow_ddpm.ddpm.training.trainer import Trainer, build_model

from .common import ROOT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TINY: dict[str, Any] = {
    "base_channels": 8,
    "channel_mults": (1, 2),
    "image_size": 8,
    "batch_size": 400,
    "epochs": 4,
    "timesteps": 20,
    "sample_steps": 3,
    "sample_every": 0,
    "eval_per_class": 0,
    "warmup_steps": 2,
    "device": "cpu",
}
STAND_IN: Any = object  # a base whose classes stand in for any other, as mypy sees it
ALONE = Processes(0, 1, torch.device("cpu"))
NAMES = ("A", "b", "3")  # classes of :func:`small_model`

EMNIST_MNIST = Path(os.environ.get("EMNIST_DIR") or ROOT / "../shared/data/emnist-mnist")
needs_emnist = pytest.mark.skipif(
    not (EMNIST_MNIST / "emnist-mnist-mapping.txt").is_file(),
    reason="no EMNIST: name the folder of emnist-mnist in EMNIST_DIR",
)


def tiny(**values: Any) -> Config:
    """Settings of a run of seconds: four batches an epoch, the last of 300."""
    return from_options(TINY | values).resolve()


def new_trainer(config: Config) -> Trainer:
    """A new trainer on the digits."""
    return Trainer(config, load_dataset(config.data).train, 10, ALONE)


def small_model() -> tuple[UNet, Config]:
    """A small model of three classes whose output depends on all inputs, laid out as in training, and its settings."""
    chosen = {"base_channels": 8, "channel_mults": (1, 2), "image_size": 16, "sample_steps": 3, "timesteps": 20}
    config = from_options(chosen | {"prediction": "v"}).resolve()
    model = build_model(config, len(NAMES))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    return model.eval(), config


class RecordingTracker(STAND_IN):  # type: ignore[misc]
    """Stands in for the tracker: records what training gives it."""

    run_id = None

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.batches: list[tuple[Any, ...]] = []
        self.images: list[tuple[str, int, tuple[int, ...]]] = []
        self.rows: list[EpochMetrics] = []
        self.in_pause = False

    def start_epoch(self, epoch: int) -> None:
        """Record the epoch."""
        self.epochs.append(epoch)

    def log_batch(self, loss: Any, lr: Any = None, grad_norm: Any = None, batch_size: Any = None) -> None:
        """Record the batch."""
        self.batches.append((loss, lr, grad_norm, batch_size))

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Know that the clock stands."""
        self.in_pause = True
        yield
        self.in_pause = False

    def log_image(self, name: str, image: NDArray[np.uint8], epoch: int) -> None:
        """Record the image; its seconds must not be the epoch's."""
        assert self.in_pause
        self.images.append((name, epoch, image.shape))

    def end_epoch(
        self, model: Any = None, ema_model: Any = None, extra: Mapping[str, float | None] | None = None
    ) -> EpochMetrics:
        """Make a row."""
        assert model is not None
        assert ema_model is not None
        self.rows.append(EpochMetrics(epoch=self.epochs[-1], extra=extra or {}))
        return self.rows[-1]


class KilledError(Exception):
    """Stands for a kill: nothing in the package catches it."""


class KillAt:
    """A progress that ends the run at a batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.at = (epoch, batch)

    def on_batch(self, epoch: int, batch: int, batches: int, epochs: int) -> None:  # noqa: ARG002
        """Kill here?"""
        if (epoch, batch) == self.at:
            raise KilledError

    def on_epoch(self, row: EpochMetrics) -> None:
        """Continue."""


def bits(state: Any) -> Any:
    """Turn tensors into bytes, so that == compares every bit."""
    if isinstance(state, torch.Tensor):
        return state.contiguous().numpy().tobytes()
    if isinstance(state, Mapping):
        return {k: bits(v) for k, v in state.items()}
    return [bits(v) for v in state] if isinstance(state, list | tuple) else state


def measured(directory: Path) -> list[dict[str, str]]:
    """The CSV's rows without times and rates, read by the standard library."""
    with (directory / "training_metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.endswith(("_sec", "_ms"))} for row in rows]
