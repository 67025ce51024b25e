"""Real frameworks train a tiny model; what is recorded equals what the loop computed by itself."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
ROWS, SIZE, ACCUMULATE = 35, 5, 3  # 7 batches an epoch: the last step of an epoch has one micro-batch only


def _column(name: str) -> list[float]:
    with Path("out/training_metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(cells[name]) for cells in csv.DictReader(file)]


def _means(values: list[float], *counts: int) -> list[float]:
    means, start = [], 0
    for count in counts:
        means.append(sum(values[start : start + count]) / count)
        start += count
    return means


def _statuses(uri: str) -> list[str]:
    return [run.info.status for run in MlflowClient(uri).search_runs(["0"])]


def _lightning(every: int | None, *, fails: bool = False, logger: Any = False, precision: Any = "32") -> list[float]:
    import lightning

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    class Model(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = nn.Linear(4, 1), list[float]()

        def training_step(self, batch: Any, number: int) -> torch.Tensor:  # noqa: ARG002
            loss: torch.Tensor = self.net(batch[0].to(self.dtype)).square().mean()
            self.seen.append(float(loss.detach()))
            if fails and len(self.seen) == 9:
                raise RuntimeError("broken")
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    model = Model()
    trainer = lightning.Trainer(
        max_epochs=2,
        precision=precision,
        accumulate_grad_batches=ACCUMULATE,
        gradient_clip_val=1e-3,
        callbacks=[MetricsCallback("out", every_n_steps=every)],
        logger=logger,
        accelerator="cpu",
        **dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(model, DataLoader(TensorDataset(torch.randn(ROWS, 4)), SIZE))
    return model.seen


@pytest.mark.parametrize("precision", ["32", "bf16-true"])
def test_lightning_by_epochs(sqlite_uri: str, precision: str) -> None:
    """Losses undivided, which a division in bfloat16 changes; the norm before clipping; the rate of this step."""
    seen = _lightning(None, precision=precision)

    assert _column("loss_mean") == pytest.approx(_means(seen, 7, 7), rel=1e-5)
    assert _column("lr") == pytest.approx([0.1 * 0.5**2, 0.1 * 0.5**5])
    assert min(_column("grad_norm")) > 0.01
    assert (_column("batches"), _column("partial")) == ([7, 7], [0, 0])
    assert _statuses(sqlite_uri) == ["FINISHED"]


def test_lightning_by_steps_in_the_run_of_its_logger(sqlite_uri: str) -> None:
    """A step's loss is the mean of its micro-batches; two loggers write to one run."""
    from lightning.pytorch.loggers import MLFlowLogger

    logger = MLFlowLogger(tracking_uri=sqlite_uri, experiment_name="Default")
    seen = _lightning(2, logger=logger)
    steps = _means(seen, 3, 3, 1, 3, 3, 1)

    assert _column("epoch") == [2, 4, 6]
    assert _column("loss_mean") == pytest.approx(_means(steps, 2, 2, 2), rel=1e-5)
    assert _statuses(sqlite_uri) == ["FINISHED"]
    assert "loss_mean" in MlflowClient(sqlite_uri).get_run(str(logger.run_id)).data.metrics


def test_an_error_in_lightning_ends_the_run_as_failed(sqlite_uri: str) -> None:
    """The epoch that was complete is kept."""
    with pytest.raises(RuntimeError, match="broken"):
        _lightning(None, fails=True)

    assert _column("epoch") == [0]
    assert _statuses(sqlite_uri) == ["FAILED"]


@pytest.mark.parametrize("every", [None, 2])
@pytest.mark.parametrize("report_to", ["none", "mlflow"])
def test_transformers(sqlite_uri: str, every: int | None, report_to: str) -> None:
    """By epochs and by steps, alone and beside its own MLflowCallback in one run."""
    import transformers

    from mlflow_ddpm.integrations.transformers import track

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.seen = nn.Linear(4, 1), list[float]()

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            loss = self.net(x).square().mean()
            self.seen.append(float(loss.detach()))
            return {"loss": loss}

    model = Model()
    arguments = transformers.TrainingArguments(
        "hf",
        num_train_epochs=2,
        per_device_train_batch_size=SIZE,
        gradient_accumulation_steps=ACCUMULATE,
        max_grad_norm=1e-3,
        learning_rate=0.6,
        report_to=report_to,
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=[{"x": torch.randn(4)} for _ in range(ROWS)])
    track(trainer, "out", every_n_steps=every)
    trainer.train()
    steps = _means(model.seen, 3, 3, 1, 3, 3, 1)

    expected = _means(model.seen, 7, 7) if every is None else _means(steps, 2, 2, 2)
    assert _column("loss_mean") == pytest.approx(expected, rel=1e-5)
    assert _column("lr") == pytest.approx([0.4, 0.1] if every is None else [0.5, 0.3, 0.1])
    assert min(_column("grad_norm")) > 1e-2
    assert _statuses(sqlite_uri) == ["FINISHED"]


@pytest.mark.parametrize("clip", ["as DeepSpeed", "off"])
def test_transformers_records_the_norm_that_there_is(sqlite_uri: str, clip: str) -> None:
    """DeepSpeed's clipping returns None; where it is switched off the Trainer may still compute one."""
    import transformers

    from mlflow_ddpm.integrations.transformers import track

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.net(x).square().mean(),)

    options = {
        "max_grad_norm": 0.0 if clip == "off" else 1.0,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    arguments = transformers.TrainingArguments("hf", num_train_epochs=1, **options)
    trainer = transformers.Trainer(Model(), arguments, train_dataset=[{"x": torch.randn(4)} for _ in range(ROWS)])
    if clip == "as DeepSpeed":
        trainer.accelerator.clip_grad_norm_ = lambda *_, **__: None
    track(trainer, "out")
    trainer.train()
    with Path("out/training_metrics.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)

    assert float(row["loss_mean"]) > 0
    assert row["batches"] == "5"
    assert row["nonfinite_batches"] == "0"
    assert row["grad_norm"] == "" or (clip == "off" and float(row["grad_norm"]) > 0)
    assert _statuses(sqlite_uri) == ["FINISHED"]


def test_accelerate_as_diffusers_scripts_log(sqlite_uri: str) -> None:
    """Each micro-batch is logged with the steps done so far, and belongs to the step that it is a part of."""
    from accelerate import Accelerator

    from mlflow_ddpm.integrations.accelerate import AccelerateTracker

    log_with = AccelerateTracker("out", every_n_steps=2)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATE, log_with=log_with)
    model = nn.Linear(4, 1)
    average, optimizer = torch.optim.swa_utils.AveragedModel(model), torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(torch.randn(ROWS, 4)), SIZE)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.init_trackers("project", config={"lr": 0.1})
    accelerator.get_tracker("mlflow_ddpm").watch(model, average)
    steps, seen = 0, []
    for _ in range(2):
        for (batch,) in loader:
            with accelerator.accumulate(model):
                loss = model(batch).square().mean()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            steps += accelerator.sync_gradients
            seen.append(float(loss.detach()))
            accelerator.log({"loss": loss.detach(), "lr": 0.1, "step": steps, "batch_size": SIZE, "w": 2.0}, step=steps)
    accelerator.end_training()

    assert _column("epoch") == [2, 4, 6]
    assert _column("loss_mean") == pytest.approx(_means(seen, 6, 4, 4), rel=1e-5)
    assert _column("w") == [2.0, 2.0, 2.0]
    assert min(_column("ema_delta_norm")) > 0
    assert _statuses(sqlite_uri) == ["FINISHED"]


@pytest.mark.parametrize("name", ["lightning", "transformers", "accelerate"])
def test_a_missing_framework_is_one_line_with_the_command(name: str) -> None:
    """And ``import mlflow_ddpm`` loads none of them."""
    code = f"""
import sys
import mlflow_ddpm
from mlflow_ddpm import MetricsTracker
assert not {{"lightning", "transformers", "accelerate"}} & set(sys.modules)
for framework in ("lightning", "pytorch_lightning", "transformers", "accelerate"):
    sys.modules[framework] = None
try:
    import mlflow_ddpm.integrations.{name}
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)

    assert f"install it with: pip install {name}" in done.stdout


def test_pytorch_lightning_with_optimisation_by_hand_dict_batches_and_validation(sqlite_uri: str) -> None:
    """The other namespace; the loss as it was returned, the norm of each step, and no validation in the time."""
    import time

    import pytorch_lightning

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    losses, norms = list[float](), list[float]()

    class Model(pytorch_lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net = nn.Linear(4, 1)

        def training_step(self, batch: Any, number: int) -> torch.Tensor:  # noqa: ARG002
            loss: torch.Tensor = self.net(batch["x"]).square().mean()
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            losses.append(float(loss.detach()))
            norms.append(
                float(sum((p.grad.double() ** 2).sum() for p in self.parameters() if p.grad is not None)) ** 0.5
            )
            optimizer.step()
            return loss

        def validation_step(self, batch: Any, number: int) -> None:  # noqa: ARG002
            time.sleep(0.3)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    rows = [{"x": torch.randn(4)} for _ in range(ROWS)]
    trainer = pytorch_lightning.Trainer(
        max_epochs=2,
        callbacks=[MetricsCallback("out")],
        logger=False,
        accelerator="cpu",
        **dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False),
    )
    trainer.fit(Model(), DataLoader(rows, SIZE), DataLoader(rows, SIZE))  # type: ignore[arg-type]

    assert _column("loss_mean") == pytest.approx(_means(losses, 7, 7), rel=1e-5)
    assert _column("grad_norm") == pytest.approx(_means(norms, 7, 7), rel=1e-5)
    assert _column("samples_per_sec") == pytest.approx([ROWS / seconds for seconds in _column("epoch_time_sec")])
    assert max(_column("epoch_time_sec")) < 7 * 0.3  # validation alone takes longer
    assert _statuses(sqlite_uri) == ["FINISHED"]
