"""``MetricsCallback`` beside other callbacks: their averages, their time, and what they do to the module."""

from __future__ import annotations

import contextlib
import copy
import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
LR, DECAY, EPOCHS, BATCHES = 0.05, 0.9, 2, 7
_QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def _data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.linspace(-1, 1, BATCHES * 20).reshape(-1, 4)), 5)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


def _average(net: nn.Module, average: nn.Module, *, is_first: bool) -> None:
    with torch.no_grad():
        for value, mean in zip(net.parameters(), average.parameters(), strict=True):
            mean.lerp_(value, 1.0 if is_first else 1 - DECAY)


def _new_model(average: nn.Module | None = None) -> Any:
    """Its own hook, which runs after the callbacks', updates the ``average``, as in latent-diffusion."""
    import lightning

    class Model(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.is_first, self.fails = _net(), True, False
            self.averages = [average] if average else []  # in a list, it is no part of the module

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            if self.fails and number == 2:
                raise KeyboardInterrupt
            loss: torch.Tensor = (self.net(batch[0]) - 1).square().mean()
            return loss

        def validation_step(self, batch: Any, number: int) -> None:
            pass

        def on_train_batch_end(self, *_: Any) -> None:
            for kept in self.averages:
                _average(self.net, kept, is_first=self.is_first)
            self.is_first = False

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=LR)

    return Model()


def _fit(model: Any, *callbacks: Any, validates: bool = True, **options: Any) -> None:
    import lightning

    options = {"max_epochs": EPOCHS, "accelerator": "cpu", "num_sanity_val_steps": 0, **_QUIET, **options}
    lightning.Trainer(callbacks=list(callbacks), **options).fit(model, _data(), _data() if validates else None)


def _column(name: str) -> list[float]:
    with Path("out/training_metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(cells[name]) for cells in csv.DictReader(file)]


def _distances(every: int) -> Iterator[float]:
    """By a plain loop: after each ``every``-th step, and after the last one."""
    net = _net()
    average, optimizer = copy.deepcopy(net), torch.optim.SGD(net.parameters(), lr=LR)
    for step in range(1, EPOCHS * BATCHES + 1):
        (batch,) = list(_data())[(step - 1) % BATCHES]
        optimizer.zero_grad()
        (net(batch) - 1).square().mean().backward()
        optimizer.step()
        _average(net, average, is_first=step == 1)
        if step % every == 0 or step == EPOCHS * BATCHES:
            pairs = zip(net.parameters(), average.parameters(), strict=True)
            yield math.sqrt(sum(float((a - b).double().square().sum()) for a, b in pairs))


@pytest.mark.parametrize("every", [None, 4])
@pytest.mark.parametrize("updated_by", ["callback before", "callback after", "module"])
def test_the_distance_of_a_row_is_that_of_its_last_step(sqlite_uri: str, every: int | None, updated_by: str) -> None:
    """Whatever updates the average, and although WeightAveraging replaces the weights when the training ends."""
    from lightning.pytorch.callbacks import EMAWeightAveraging

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    ours, averaging = MetricsCallback("out", every_n_steps=every), EMAWeightAveraging(decay=DECAY)
    model = _new_model(_net() if updated_by == "module" else None)
    for average in model.averages:
        ours.watch(model.net, average)
    others = {"callback before": [averaging, ours], "callback after": [ours, averaging], "module": [ours]}
    _fit(model, *others[updated_by], validates=every is not None, val_check_interval=4 if every else None)

    assert _column("ema_delta_norm") == pytest.approx(list(_distances(every or BATCHES)), rel=1e-5)


@pytest.mark.parametrize("every", [None, 100])
def test_what_other_callbacks_do_after_an_epoch_is_not_in_its_time(sqlite_uri: str, every: int | None) -> None:
    """Before ours and after it in the list; meanwhile the module is as it was, so that it can be pickled."""
    from lightning.pytorch.callbacks import LambdaCallback

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    def sample(_: Any, module: Any) -> None:
        time.sleep(0.5)
        assert "training_step" not in vars(module)

    hooks = ("on_validation_start", "on_validation_end", "on_train_epoch_end")
    ours = MetricsCallback("out", every_n_steps=every)
    others = [LambdaCallback(**dict.fromkeys(hooks, sample)) for _ in range(2)]
    _fit(_new_model(), others[0], ours, others[1], max_epochs=1)

    assert sum(_column("epoch_time_sec")) < 0.5  # they slept for three seconds


def test_a_logger_that_saw_a_killed_training_ends_the_next_one_as_it_ends(sqlite_uri: str) -> None:
    """In a notebook: Ctrl-C, then another fit with the same logger."""
    from lightning.pytorch.loggers import MLFlowLogger

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    logger, model = MLFlowLogger("Default", tracking_uri=sqlite_uri), _new_model()
    statuses = []
    for model.fails in (True, False):
        with contextlib.suppress(SystemExit):
            _fit(model, MetricsCallback("out"), logger=logger)
        statuses += [run.info.status for run in MlflowClient(sqlite_uri).search_runs(["0"])]

    assert statuses == ["KILLED", "FINISHED"]


@pytest.mark.parametrize("every", [None, BATCHES])
def test_a_row_is_on_disk_before_the_checkpoint_of_its_step(sqlite_uri: str, every: int | None) -> None:
    """A kill after the checkpoint would lose the row otherwise: a resume does not do its steps again."""
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    rows: list[int] = []

    class Looks(Callback):  # type: ignore[misc]
        def on_save_checkpoint(self, *_: Any) -> None:
            rows.append(len(_column("epoch")))

    options: dict[str, Any] = {"every_n_train_steps": every} if every else {"save_on_train_epoch_end": True}
    callbacks = [Looks(), MetricsCallback("out", every_n_steps=every), ModelCheckpoint("saved", **options)]
    _fit(_new_model(), *callbacks, validates=False, enable_checkpointing=True)

    assert rows[:EPOCHS] == [1, 2]
