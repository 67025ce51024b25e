"""``MetricsCallback`` beside other callbacks: their averages, their time, and what they do to the module."""

from __future__ import annotations

import contextlib
import copy
import csv
import math
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
            self.net, self.is_first = _net(), True
            self.fails_at, self.error = -1, KeyboardInterrupt()
            self.averages = [average] if average else []  # in a list, it is no part of the module

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            if self.global_step == self.fails_at:
                raise self.error
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


def _fit(model: Any, *callbacks: Any, validates: bool = True, ckpt_path: str | None = None, **options: Any) -> None:
    import lightning

    options = {"max_epochs": EPOCHS, "accelerator": "cpu", "num_sanity_val_steps": 0, **_QUIET, **options}
    trainer = lightning.Trainer(callbacks=list(callbacks), **options)
    trainer.fit(model, _data(), _data() if validates else None, ckpt_path=ckpt_path)


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

    seconds = 0

    def sample(_: Any, module: Any) -> None:
        nonlocal seconds
        seconds += 100
        assert "training_step" not in vars(module)

    hooks = ("on_validation_start", "on_validation_end", "on_train_epoch_end")
    ours = MetricsCallback("out", every_n_steps=every, clock=lambda: seconds)
    others = [LambdaCallback(**dict.fromkeys(hooks, sample)) for _ in range(2)]
    _fit(_new_model(), others[0], ours, others[1], max_epochs=1)

    assert _column("epoch_time_sec") == [0]


class TrialPruned(Exception):  # noqa: N818 - Optuna's name
    """Ends a trial that is worse than others."""


@pytest.mark.parametrize("then", [None, TrialPruned()])
def test_a_logger_that_saw_a_killed_training_ends_the_next_one_as_it_ends(
    sqlite_uri: str, then: Exception | None
) -> None:
    """In a notebook: Ctrl-C, then another fit with the same logger, which may be a trial that Optuna prunes."""
    from lightning.pytorch.loggers import MLFlowLogger

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    logger, model = MLFlowLogger("Default", tracking_uri=sqlite_uri), _new_model()
    statuses = []
    for model.error in (KeyboardInterrupt(), then):
        model.fails_at = 2 if model.error else -1
        with contextlib.suppress(SystemExit, TrialPruned):
            _fit(model, MetricsCallback("out"), logger=logger)
        statuses += [run.info.status for run in MlflowClient(sqlite_uri).search_runs(["0"])]

    assert statuses == ["KILLED", "FINISHED"]


def test_a_row_that_cannot_be_written_when_the_training_ends_leaves_no_run_open(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or a rank that is gone: in a notebook the run would stay RUNNING."""
    from lightning.pytorch.callbacks import LambdaCallback

    from mlflow_ddpm import MetricsTracker
    from mlflow_ddpm.integrations.lightning import MetricsCallback

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    def fail(*_: Any) -> None:
        raise ValueError("sampling")

    monkeypatch.setattr(MetricsTracker, "end_epoch", refuse)
    with pytest.raises(OSError, match="no space left"):
        _fit(_new_model(), MetricsCallback("out"), LambdaCallback(on_train_epoch_end=fail))

    assert [run.info.status for run in MlflowClient(sqlite_uri).search_runs(["0"])] == ["FAILED"]


@pytest.mark.parametrize(
    ("every", "saving", "options"),
    [
        (None, {"save_on_train_epoch_end": True}, {"limit_val_batches": 0}),
        (None, {"every_n_train_steps": 6}, {}),
        (None, {}, {"check_val_every_n_epoch": 2}),
        (None, {}, {"val_check_interval": 0.5}),
        (6, {"every_n_train_steps": 6}, {}),
    ],
)
def test_a_row_is_on_disk_before_the_checkpoint_of_its_step(
    sqlite_uri: str, every: int | None, saving: dict[str, Any], options: dict[str, Any]
) -> None:
    """A kill after the checkpoint would lose the row otherwise: a resume does not do its steps again."""
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    rows: dict[int, int] = {}  # by steps done

    class Looks(Callback):  # type: ignore[misc]
        def on_save_checkpoint(self, trainer: Any, *_: Any) -> None:
            has_rows = Path("out/training_metrics.csv").exists()
            rows[trainer.global_step] = len(_column("epoch")) if has_rows else 0

    callbacks = [Looks(), MetricsCallback("out", every_n_steps=every), ModelCheckpoint("saved", **saving)]
    _fit(_new_model(), *callbacks, limit_train_batches=6, enable_checkpointing=True, **options)

    assert 12 in rows
    assert rows == {step: step // 6 for step in rows}
    assert _column("partial") == [0, 0]


@pytest.mark.parametrize("batches", [6, 7])  # the second validation is the epoch's end, or one batch before
def test_a_resume_from_a_validation_inside_an_epoch_has_each_epoch_once(sqlite_uri: str, batches: int) -> None:
    """The checkpoint is that of the third of its batches, with which no epoch ends."""
    from lightning.pytorch.callbacks import ModelCheckpoint

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    options: dict[str, Any] = {"limit_train_batches": batches, "val_check_interval": 0.5, "max_epochs": 3}
    model = _new_model()
    for model.fails_at, path in ((batches + 4, None), (-1, "saved/last.ckpt")):
        with contextlib.suppress(SystemExit):
            _fit(
                model,
                MetricsCallback("out"),
                ModelCheckpoint("saved", save_last=True),
                ckpt_path=path,
                enable_checkpointing=True,
                **options,
            )

    assert [_column(name) for name in ("epoch", "partial", "batches")] == [
        [0, 1, 2],
        [0, 1, 0],
        [batches, batches - 3, batches],
    ]
