"""Trainings of uncommon shape: two optimizers, batches without a loss, data without a length, a second training."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
_QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def _column(name: str, directory: str = "out") -> list[float]:
    with Path(directory, "training_metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(cells[name] or "nan") for cells in csv.DictReader(file)]


def _fit(model: Any, callback: Any, **options: Any) -> None:
    import lightning

    options = {"max_epochs": 1, "accelerator": "cpu", "callbacks": [callback], **_QUIET, **options}
    lightning.Trainer(**options).fit(model, DataLoader(TensorDataset(torch.ones(20, 4)), 5))


@pytest.mark.parametrize("returns", ["loss", "nothing"])
@pytest.mark.parametrize("every", [None, 4])
def test_two_optimizers_by_hand(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture, every: int | None, returns: str
) -> None:
    """The last one's norm counts, without the other's gradients; windows go by Lightning's steps, two a batch."""
    import lightning

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    norms = list[float]()

    class Pair(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.first, self.second = nn.Linear(4, 1), nn.Linear(4, 1)

        def training_step(self, batch: Any, number: int) -> Any:  # noqa: ARG002
            for net, optimizer in zip((self.first, self.second), self.optimizers(), strict=True):
                loss = net(batch[0]).square().mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            norms.append(
                float(nn.utils.get_total_norm([p.grad for p in self.second.parameters() if p.grad is not None]))
            )
            return loss if returns == "loss" else None

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.first, self.second)]

    _fit(Pair(), MetricsCallback("out", every_n_steps=every))

    if returns == "nothing":
        assert caplog.text.count("training_step returned no loss") == 1
    else:
        expected = [sum(norms) / 4] if every is None else [sum(norms[:2]) / 2, sum(norms[2:]) / 2]
        assert _column("grad_norm") == pytest.approx(expected, rel=1e-5)
        assert _column("partial") == [0.0] * len(expected)


def test_a_batch_without_a_loss_gives_its_step_nothing_of_the_next(sqlite_uri: str) -> None:
    """Here the last micro-batch of each step has none: the step's loss is that of its first one."""
    import lightning

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    seen = list[float]()

    class Model(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 1)

        def training_step(self, batch: Any, number: int) -> Any:
            if number % 2:
                return None
            loss = self.net(batch[0]).square().mean()
            seen.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = MetricsCallback("out", every_n_steps=1)
    _fit(Model(), callback, accumulate_grad_batches=2)
    _fit(Model(), callback, accumulate_grad_batches=2)  # from step 0: another run

    assert _column("loss_mean", "out-1") + _column("loss_mean") == pytest.approx(seen, rel=1e-5)
    assert len(MlflowClient(sqlite_uri).search_runs(["0"])) == 2


class _Stream(IterableDataset[Any]):
    """Seven batches of one sample, without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([{"x": torch.full((4,), float(i))} for i in range(7)])


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen = nn.Linear(4, 1), list[float]()
        self.fails_at = -1

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = self.net(x).square().mean()
        if len(self.seen) == self.fails_at:
            self.fails_at = -1
            raise RuntimeError("CUDA out of memory.")
        self.seen.append(float(loss.detach()))
        return {"loss": loss}


def _trainer(model: nn.Module, data: Any, every_n_steps: int | None = None, **options: Any) -> Any:
    import transformers

    from mlflow_ddpm.integrations.transformers import track

    options = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, **options}
    options = {"per_device_train_batch_size": 1, **options}
    arguments = transformers.TrainingArguments("hf", learning_rate=1e-3, **options)
    trainer = transformers.Trainer(model, arguments, train_dataset=data)
    track(trainer, "out", every_n_steps)
    return trainer


def test_transformers_counts_the_epochs_of_data_without_a_length(sqlite_uri: str) -> None:
    """Its own ``state.epoch`` is then a part of ``max_steps``: each pass would replace the one before."""
    model = _Net()
    _trainer(model, _Stream(), max_steps=17).train()

    assert (_column("epoch"), _column("batches"), _column("partial")) == ([0, 1, 2], [7, 7, 3], [0, 0, 1])
    assert _column("loss_mean")[1] == pytest.approx(sum(model.seen[7:14]) / 7, rel=1e-5)


def test_transformers_trains_by_windows_on_a_rank_without_a_group(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under srun alone it cannot ask rank 0 for the next epoch, and windows need none."""
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    model = _Net()
    _trainer(model, _Stream(), every_n_steps=2, max_steps=9).train()

    assert len(model.seen) == 9


def test_transformers_resumed_after_a_pass_of_such_data_has_no_empty_row(sqlite_uri: str) -> None:
    """It skips the eight batches of four steps: the first pass has seven."""
    options: dict[str, Any] = {
        "max_steps": 8,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 4,
    }
    _trainer(_Net(), _Stream(), **options | {"max_steps": 4}).train()
    _trainer(_Net(), _Stream(), **options).train(resume_from_checkpoint="hf/checkpoint-4")

    assert min(_column("batches")) > 0


def test_transformers_that_begins_anew_with_smaller_batches_goes_on_in_one_run(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """``auto_find_batch_size``: the epoch that memory did not suffice for is dropped with a line."""
    model = _Net()
    model.fails_at = 2
    options = {"auto_find_batch_size": True, "per_device_train_batch_size": 2}
    _trainer(model, list(_Stream()) * 2, num_train_epochs=1, **options).train()

    assert _column("loss_mean") == pytest.approx([sum(model.seen[2:]) / len(model.seen[2:])], rel=1e-5)
    assert "its 2 batches were dropped" in caplog.text
    assert [run.info.status for run in MlflowClient(sqlite_uri).search_runs(["0"])] == ["FINISHED"]


def test_a_second_training_of_transformers_is_a_second_run_beside_its_callback(sqlite_uri: str) -> None:
    """Nothing of the first one is replaced, and the callback writes to the second one's run, too."""
    trainer = _trainer(_Net(), list(_Stream()), num_train_epochs=1, report_to="mlflow", logging_steps=2)
    trainer.train()
    trainer.train()

    runs = MlflowClient(sqlite_uri).search_runs(["0"])
    assert [{"loss", "loss_mean"} <= run.data.metrics.keys() for run in runs] == [True, True]
    assert _column("batches", "out-1") == _column("batches") == [7]
