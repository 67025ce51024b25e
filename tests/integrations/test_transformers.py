"""The Trainer of transformers in its less common forms: shares of a loss, cut epochs, callbacks, searches."""

from __future__ import annotations

import csv
import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mlflow import MlflowClient
from torch import nn

from mlflow_ddpm.integrations.transformers import track

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
_DATA = [{"x": torch.full((4,), k / 10), "labels": torch.tensor(k % 2)} for k in range(7)]


class _Net(nn.Module):
    """Its loss is the mean over the batch, or the batch's share of the step where it knows the step's items."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen = nn.Linear(4, 2), list[float]()

    def forward(self, x: torch.Tensor, labels: torch.Tensor, **options: Any) -> dict[str, torch.Tensor]:
        total = nn.functional.cross_entropy(self.net(x), labels, reduction="sum")
        self.seen.append(float(total.detach()))
        return {"loss": total / options.get("num_items_in_batch", len(labels)), "logits": self.net(x)}


def _trainer(kind: type[Any] = transformers.Trainer, callbacks: Any = (), model: Any = None, **options: Any) -> Any:
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    options = {**quiet, "per_device_train_batch_size": 1, "num_train_epochs": 1, **options}
    arguments = transformers.TrainingArguments("hf", train_sampling_strategy="sequential", **options)
    data = {"train_dataset": _DATA, "eval_dataset": _DATA[:1]}
    return kind(model or _Net(), arguments, callbacks=list(callbacks), **data)


def _column(name: str, directory: str = "out") -> list[float]:
    with Path(directory, "training_metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(cells[name] or "nan") for cells in csv.DictReader(file)]


class _AtStep(transformers.TrainerCallback):  # type: ignore[misc]
    def __init__(self, every: int, act: Any) -> None:
        self._every, self._act = every, act

    def on_step_end(self, _: Any, state: Any, control: Any, **__: Any) -> None:
        if state.global_step % self._every == 0:
            self._act(control)


@pytest.mark.parametrize("scales", ["model", "function", "trainer"])
def test_a_loss_that_is_its_share_of_the_step_is_recorded_whole(sqlite_uri: str, scales: str) -> None:
    """As language models, ``compute_loss_func`` and ``loss_is_scaled_for_ga`` give it; the remainder has one batch."""

    class Scaling(transformers.Trainer):  # type: ignore[misc]
        loss_is_scaled_for_ga = True

        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            return model(**inputs)["loss"] / self.current_gradient_accumulation_steps

    trainer = _trainer(Scaling if scales == "trainer" else transformers.Trainer, gradient_accumulation_steps=3)
    if scales == "function":
        trainer.model_accepts_loss_kwargs = False
        net = trainer.model.net
        trainer.model.forward = lambda x, labels=None: {"logits": net(x)}  # noqa: ARG005
        sums = nn.CrossEntropyLoss(reduction="sum")
        trainer.compute_loss_func = lambda out, labels, num_items_in_batch: (
            trainer.model.seen.append(float(sums(out["logits"], labels).detach()))
            or sums(out["logits"], labels) / num_items_in_batch
        )
    track(trainer, "out", every_n_steps=1)
    trainer.train()
    seen = trainer.model.seen

    assert _column("loss_mean") == pytest.approx([sum(seen[:3]) / 3, sum(seen[3:6]) / 3, seen[6]], rel=1e-5)


def test_epochs_that_a_callback_cuts_follow_each_other(sqlite_uri: str) -> None:
    """Each is less than one of the Trainer's."""
    stop = _AtStep(3, lambda control: setattr(control, "should_epoch_stop", True))
    trainer = _trainer(callbacks=[stop], num_train_epochs=3)
    track(trainer, "out")
    trainer.train()

    assert [_column(name) for name in ("epoch", "batches", "partial")] == [[0, 1, 2], [3, 3, 3], [1, 1, 1]]


@pytest.mark.parametrize(
    ("every", "epochs", "rows"), [(None, 1, [7]), (4, 1, [4, 7]), (4, 3, [4, 8, 12, 14])], ids=["epoch", "all", "early"]
)
def test_an_average_is_measured_after_callbacks_and_their_samples_take_no_time(
    sqlite_uri: str, every: int | None, epochs: int, rows: list[int]
) -> None:
    """The callback comes after the tracker's; the last window is measured before the best model is loaded.

    An evaluation stops the training of three epochs after two.
    """
    model, distances, seconds = _Net(), list[float](), 0.0
    average = [parameter.detach().clone() for parameter in model.parameters()]

    class Average(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            for mean, parameter in zip(average, model.parameters(), strict=True):
                mean.lerp_(parameter.detach(), 0.1)
            differences = [(a - b).flatten() for a, b in zip(average, model.parameters(), strict=True)]
            distances.append(float(torch.cat(differences).norm()))

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            pass_seconds()

    def pass_seconds() -> None:
        nonlocal seconds
        seconds += 100

    class Slow(transformers.Trainer):  # type: ignore[misc]
        def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
            pass_seconds()
            return super().evaluation_loop(*args, **kwargs)

    best: dict[str, Any] = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": True,
    }
    best |= {"eval_strategy": "epoch", "save_strategy": "epoch"}
    trainer = _trainer(Slow, model=model, learning_rate=0.1, num_train_epochs=epochs, **best)
    trainer.add_callback(transformers.EarlyStoppingCallback(early_stopping_patience=1))
    tracked = track(trainer, "out", every_n_steps=every, clock=lambda: seconds)
    tracked.watch(model, average)
    trainer.add_callback(Average())
    trainer.add_callback(_AtStep(2, lambda _: trainer.predict(_DATA[:1])))
    trainer.train()

    assert _column("ema_delta_norm") == pytest.approx([distances[k - 1] for k in rows])
    assert sum(_column("epoch_time_sec")) == 0
    assert tracked.tracker is None


def test_a_cell_that_failed_and_runs_again_continues_its_run_beside_mlflow_callback(sqlite_uri: str) -> None:
    """The first trainer's MLflowCallback ends whatever run is active when it is collected."""

    def fail(_: Any) -> None:
        raise RuntimeError("broken")

    options: dict[str, Any] = {"report_to": "mlflow", "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}
    trainer = _trainer(callbacks=[_AtStep(5, fail)], **options)
    track(trainer, "out", every_n_steps=2)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.train()
    trainer = _trainer(callbacks=[_AtStep(5, lambda _: gc.collect())], **options)
    track(trainer, "out", every_n_steps=2)
    trainer.train(resume_from_checkpoint=True)
    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])

    assert (run.info.status, run.data.metrics["loss_mean"] > 0) == ("FINISHED", True)
    assert len(MlflowClient(sqlite_uri).get_metric_history(run.info.run_id, "loss")) == 7


def test_an_epoch_whose_last_step_is_saved_has_its_row_though_another_callback_fails(sqlite_uri: str) -> None:
    """The resumed training does not do this epoch again."""

    class Sampling(transformers.TrainerCallback):  # type: ignore[misc]
        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("broken")

    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 7, "num_train_epochs": 2}
    trainer = _trainer(callbacks=[Sampling()], **options)
    track(trainer, "out")
    with pytest.raises(RuntimeError, match="broken"):
        trainer.train()
    trainer = _trainer(**options)
    track(trainer, "out")
    trainer.train(resume_from_checkpoint=True)

    assert [_column(name) for name in ("epoch", "batches", "partial")] == [[0, 1], [7, 7], [0, 0]]


def test_a_run_that_mlflow_callback_cannot_find_is_a_warning(
    sqlite_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tracker's run is in another store; a measurement never ends a training. ``track`` may be called again."""

    def fail(_: Any) -> None:
        raise RuntimeError("broken")

    uri = f"sqlite:///{shutil.copy('mlflow.db', tmp_path / 'other.db')}"
    trainer = _trainer(callbacks=[_AtStep(5, fail)], report_to="mlflow")
    first = track(trainer, "out", every_n_steps=2, tracking_uri=uri)
    with pytest.raises(RuntimeError, match="broken"):
        trainer.train()
    trainer.remove_callback(_AtStep)
    assert track(trainer, "out", every_n_steps=2, tracking_uri=uri) is first
    trainer.train()

    assert "is not in MLflowCallback's store" in caplog.text
    assert [run.info.status for run in MlflowClient(uri).search_runs(["0"])] == ["FINISHED"]
    assert [run.info.status for run in MlflowClient(sqlite_uri).search_runs(["0"])] == ["FINISHED", "FAILED"]
    assert _column("epoch") == [2, 4, 6, 7]


def test_each_trial_of_a_search_is_a_run_of_its_own(sqlite_uri: str) -> None:
    """Each has a new ``Accelerator``, which clips; the first is pruned, and the second is no resume of it."""

    class TrialPruned(Exception):  # noqa: N818 - Optuna's name
        pass

    def prune(control: Any) -> None:
        trainer.remove_callback(_AtStep)
        raise TrialPruned

    trainer = _trainer(callbacks=[_AtStep(3, prune)])
    track(trainer, "out", every_n_steps=2)
    with pytest.raises(TrialPruned):
        trainer.train()
    trainer.create_accelerator_and_postprocess()
    trainer.train()

    assert [_column("epoch", name) for name in ("out-1", "out")] == [[2], [2, 4, 6, 7]]
    assert min(_column("grad_norm")) > 0
    assert [run.info.status for run in MlflowClient(sqlite_uri).search_runs(["0"])] == ["FINISHED"] * 2
