"""Training: what an epoch does, what it tells the tracker, and that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from support.common import slow
from support.pipeline import ALONE, TINY, KillAt, KilledError, RecordingTracker, bits, measured, new_trainer, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from mlflow_ddpm.core.errors import ConfigError
from mlflow_ddpm.ddpm.config.config import Config, from_options
from mlflow_ddpm.ddpm.config.groups import OptimConfig
from mlflow_ddpm.ddpm.data.loading import load_dataset
from mlflow_ddpm.ddpm.train import TrainResult, prepare, train, train_with
from mlflow_ddpm.ddpm.training.checkpoint import load_newest
from mlflow_ddpm.ddpm.training.trainer import Trainer, learning_rate

torch.set_num_threads(1)


def run(config: Config, directory: Path, tracker: RecordingTracker) -> TrainResult:
    """Train with the stand-in."""
    return train_with(tracker, prepare(config, ALONE, directory), directory)


class NoDeviceReads(TorchDispatchMode):
    """Raises where a tensor's value is brought to the host, which on a GPU would wait for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Refuse reads, let everything else pass."""
        if str(func) in {"aten._local_scalar_dense.default", "aten.is_nonzero.default", "aten.nonzero.default"}:
            message = f"{func} reads the device"
            raise AssertionError(message)
        return func(*args, **(kwargs or {}))


def test_no_tensor_is_read_during_an_epoch() -> None:
    """Neither by the trainer nor between batches; the guard itself is shown to catch a read."""
    trainer = new_trainer(tiny())
    with NoDeviceReads():  # type: ignore[no-untyped-call]
        results = list(trainer.train_epoch(0))
        with pytest.raises(AssertionError, match="reads the device"):
            float(results[0].loss)

    assert [r.batch_size for r in results] == [400, 400, 400, 300]


def test_every_image_counts_once_an_epoch_in_an_order_of_its_own() -> None:
    """Seen through the indexing of its batches: each image's index once, differently in the next epoch."""
    config = tiny()
    data = load_dataset(config.data).train
    marked = data._replace(images=torch.zeros(1500, 1, 8, 8, dtype=torch.uint8))
    trainer = Trainer(config, marked, 10, ALONE)
    seen: list[list[int]] = []
    inner = trainer._batches._draw_batch

    def spy(indices: torch.Tensor, generator: torch.Generator) -> Any:
        seen[-1] += indices.tolist()
        return inner(indices, generator)

    trainer._batches._draw_batch = spy  # type: ignore[method-assign]
    for epoch in (0, 1):
        seen.append([])
        list(trainer.train_epoch(epoch))

    assert sorted(seen[0]) == sorted(seen[1]) == list(range(1500))
    assert seen[0] != seen[1]


def test_the_logged_norm_is_that_before_clipping() -> None:
    """Clipping hard or not at all, the first batch's norm is the same; the second differs, as the steps did."""
    clipped, free = (list(new_trainer(tiny(grad_clip=clip)).train_epoch(0)) for clip in (1e-3, 0.0))

    assert float(clipped[0].grad_norm) == float(free[0].grad_norm) > 1e-3
    assert float(clipped[0].loss) == float(free[0].loss)


@pytest.mark.parametrize("prediction", ["v", slow("eps")])
def test_the_loss_falls(prediction: str) -> None:
    """Three epochs of four batches are enough to see it."""
    trainer = new_trainer(tiny(prediction=prediction, lr=1e-2, batch_size=100))
    losses = [float(torch.stack([r.loss for r in trainer.train_epoch(epoch)]).mean()) for epoch in range(3)]

    assert losses[2] < 0.8 * losses[0]


def test_the_learning_rate_warms_up_then_follows_half_a_cosine() -> None:
    """Linear from the first step, full after the warm-up, half in the middle of the rest, none at the end."""
    optim = OptimConfig(lr=1.0, warmup_steps=10)
    rates = [learning_rate(step, 110, optim) for step in (0, 4, 9, 10, 60, 110)]

    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.0])
    assert learning_rate(0, 5, OptimConfig(lr=1.0, warmup_steps=0)) == 1.0


@pytest.mark.slow
def test_grids_come_every_n_epochs_and_first_and_last_and_judgement_at_the_end(tmp_path: Path) -> None:
    """Outside the epoch's clock, and before its row, so that the row carries the judgement."""
    tracker = RecordingTracker()
    result = run(tiny(epochs=3, sample_every=2, eval_per_class=2), tmp_path, tracker)

    assert [(name, epoch) for name, epoch, _ in tracker.images] == [("samples", 0), ("samples", 1), ("samples", 2)]
    judged = {"sample/accuracy", "sample/accuracy_g1", "sample/classifier_accuracy"}
    assert [judged & set(row.extra) for row in tracker.rows] == [set(), set(), judged]
    assert result.sample_quality is not None
    assert result.sample_quality.metrics().items() <= tracker.rows[-1].extra.items()


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    """The same call again trains no batch."""
    run(tiny(epochs=1), tmp_path, RecordingTracker())
    tracker = RecordingTracker()
    result = run(tiny(epochs=1), tmp_path, tracker)

    assert (result.first_epoch, result.epochs, tracker.batches) == (1, 1, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e-3}, "optim.lr must be 0.002 to continue from"),
        slow({"base_channels": 16}, "model.base_channels must be 8"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """By name; what does not change a step, such as the number of epochs, is free."""
    run(tiny(epochs=1), tmp_path, RecordingTracker())
    tracker = RecordingTracker()
    run(tiny(epochs=2, sample_steps=2), tmp_path, tracker)

    assert tracker.epochs == [1]
    with pytest.raises(ConfigError, match=message):
        run(tiny(epochs=2, **change), tmp_path, RecordingTracker())


@pytest.mark.parametrize(("damaged", "first_epoch"), [(False, 2), slow(True, 1)])
def test_a_killed_run_goes_on_to_the_very_same_model_and_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, damaged: bool, first_epoch: int
) -> None:
    """Killed in the middle of epoch 2 and started again: every bit of weights, average, optimiser and loss is equal.

    With its newest checkpoint damaged it goes back one epoch, and the row of that epoch is superseded.
    """
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri, config = (tmp_path / "store").as_uri(), from_options(TINY | {"sample_every": 2})
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, output_dir=whole, tracking_uri=uri)
    with pytest.raises(KilledError):
        train(config, output_dir=broken, tracking_uri=uri, progress=KillAt(2, 3))
    if damaged:
        os.truncate(broken / "checkpoints" / "checkpoint_000001.pt", 5000)
    result = train(config, output_dir=broken, tracking_uri=uri)
    ends = [load_newest(directory / "checkpoints") for directory in (whole, broken)]

    assert result.first_epoch == first_epoch
    assert ends[0] is not None
    assert ends[1] is not None
    assert bits(ends[0].state) == bits(ends[1].state)
    assert measured(whole) == measured(broken)
    assert len(measured(broken)) == 4
    assert [p.name for p in sorted((broken / "samples").iterdir())] == [
        "samples_epoch_000000.png",
        "samples_epoch_000001.png",
        "samples_epoch_000003.png",
    ]


def test_params_tell_runs_apart_and_everything_else_is_in_config_json(tmp_path: Path, sqlite_uri: str) -> None:
    """At most twenty params; the data set is an input of the run; a path is no param of its own key."""
    import mlflow

    result = train(from_options(TINY | {"epochs": 1}), output_dir=tmp_path / "out", tracking_uri=sqlite_uri)
    run = mlflow.MlflowClient(sqlite_uri).get_run(str(result.run_id))
    params, (data_input,) = run.data.params, run.inputs.dataset_inputs
    folder = mlflow.artifacts.download_artifacts(
        run_id=result.run_id, artifact_path="metrics/config.json", tracking_uri=sqlite_uri
    )
    config = json.loads(Path(folder).read_text())["config"]

    assert len(params) <= 20
    assert (params["optim.lr"], params["train.epochs"], params["epochs"]) == ("0.002", "1", "1")
    assert "--base-channels 8" in params["options"]
    assert (config["data"]["train_images"], config["model"]["parameters"]) == (1500, result.parameters)
    assert config["sample"]["sampler"] == "ddim"
    assert (data_input.dataset.name, data_input.dataset.source) == ("digits", "sklearn.datasets.load_digits")
    assert json.loads(data_input.dataset.profile) == {"train_images": 1500, "test_images": 297, "classes": 10}


@pytest.mark.slow
def test_a_run_that_was_sent_later_has_the_same_params_and_data_set(
    tmp_path: Path, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained while the store was away, sent by ``sync``."""
    import mlflow

    from mlflow_ddpm.tracker import MetricsTracker
    from mlflow_ddpm.tracking.sync import sync_directory

    config = from_options(TINY | {"epochs": 1})
    with monkeypatch.context() as patch:
        patch.setattr(MetricsTracker, "close", partialmethod(MetricsTracker.close, timeout=0.1))  # not half a minute
        train(config, output_dir=tmp_path / "away", tracking_uri="http://127.0.0.1:9")
    sync_directory(tmp_path / "away", tracking_uri=sqlite_uri)
    train(config, output_dir=tmp_path / "there", tracking_uri=sqlite_uri)
    runs = mlflow.MlflowClient(sqlite_uri).search_runs(["0"])
    given = [run.data.params | {"output_dir": ""} for run in runs]

    assert len(given) == 2
    assert given[0] == given[1]
    assert runs[0].inputs.dataset_inputs[0].dataset.digest == runs[1].inputs.dataset_inputs[0].dataset.digest
