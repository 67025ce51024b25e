"""Trains a DDPM from a configuration, epoch by epoch, and records every epoch with a tracker.

The order at the end of an epoch makes any crash harmless: samples are drawn, the row becomes durable, then the
checkpoint is written. The same call again continues after the last checkpoint; a row beyond it is measured again and
supersedes the old one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.errors import ConfigError, PeerLostError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.ddpm.config.config import Config, run_params
from mlflow_ddpm.ddpm.data.images import Dataset, describe_dataset
from mlflow_ddpm.ddpm.data.loading import load_dataset
from mlflow_ddpm.ddpm.evaluation.sample_quality import SampleEvaluator, SampleQuality
from mlflow_ddpm.ddpm.output_dir import check_output_dir
from mlflow_ddpm.ddpm.sampling import sample_grid
from mlflow_ddpm.ddpm.saved_model.model_files import save_model
from mlflow_ddpm.ddpm.training.checkpoint import load_newest, save_checkpoint
from mlflow_ddpm.ddpm.training.distributed import Processes, cpu_threads, processes
from mlflow_ddpm.ddpm.training.rank_failure import detect_rank_failure
from mlflow_ddpm.ddpm.training.trainer import Trainer
from mlflow_ddpm.storage.layout import CHECKPOINT_FOLDER, CONFIG_NAME
from mlflow_ddpm.tracking.run_metadata import RunConfig, write_run_config
from mlflow_ddpm.tracking.timing import AccumulatingTimer

if TYPE_CHECKING:
    from mlflow_ddpm.tracker import MetricsTracker

logger = logging.getLogger("mlflow_ddpm")

# Settings that may differ between a checkpoint and the run that continues from it; all others would make the run's
# parameters a lie. More epochs stretch the learning rate's cosine from here on.
_FREE_ON_RESUME = (
    "train.preset",
    "train.epochs",
    "train.threads",
    "train.device",
    "train.compile",
    "data.dir",
    "sample.",
)


class Progress(Protocol):
    """Receives how far a training is. Nothing here reads a device."""

    def on_batch(self, epoch: int, batch: int, batches: int, epochs: int) -> None:
        """A batch is done: ``batch`` of ``batches``, from 1, of ``epoch``, from 0, of ``epochs``."""

    def on_epoch(self, row: EpochMetrics) -> None:
        """An epoch is done."""


class Training(NamedTuple):
    """A training about to start, or to continue."""

    config: Config  # resolved
    dataset: Dataset  # on the CPU
    trainer: Trainer
    procs: Processes
    first_epoch: int


class TrainResult(NamedTuple):
    """The result of a training."""

    run_id: str | None
    first_epoch: int  # > 0 if the run was continued; equal to ``epochs`` if there was nothing left to do
    epochs: int
    parameters: int
    last_row: EpochMetrics | None  # None if there was nothing left to do, and on ranks other than 0
    sample_quality: SampleQuality | None  # of the newest evaluation


def train(
    config: Config,
    *,
    output_dir: str | Path,
    resume: bool = False,
    params: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    on_start: Callable[[MetricsTracker], object] = lambda _tracker: None,
    **tracker_options: Any,
) -> TrainResult:
    """Train, or continue where ``output_dir`` has checkpoints, and return the result.

    Call it in every process that torchrun started; ``output_dir`` must be one that all of them see. ``resume`` and
    ``tracker_options``, such as ``run_name``, are arguments of :class:`mlflow_ddpm.tracker.MetricsTracker`. ``params``
    are the run's params in MLflow; default: :func:`mlflow_ddpm.ddpm.config.config.run_params`. All settings are in
    ``metrics/config.json``. ``on_start`` is called with the open tracker before the first batch, on rank 0.

    Raises:
        ConfigError: settings do not fit together, this machine, or the checkpoint to go on from.
        DataError: the data set's files are missing or damaged.
        MirrorError: no checkpoint of the output directory can be read, or its files are not ours.
        PeerLostError: another process of this machine died; the run is FAILED.
        StoreError: MLflow refused the run.
    """
    from mlflow_ddpm.tracker import MetricsTracker

    typed, directory = config, Path(output_dir)
    config = config.resolve()
    if ranks.rank() == 0:
        check_output_dir(directory, resume=resume)
    with cpu_threads(config.train.threads), processes(config.train.device) as procs:
        training = prepare(config, procs, directory)
        files = str(Path(config.data.dir).absolute())
        source = "sklearn.datasets.load_digits" if config.data.name == "digits" else files
        run_config = RunConfig(
            _describe(training),
            params or run_params(typed, output_dir=str(output_dir)),
            describe_dataset(training.dataset, source) if procs.is_first else {},
        )
        with MetricsTracker(
            directory,
            config=run_config,
            resume=resume,
            device=procs.device,
            reduce_over_ranks=procs.world_size > 1,
            **tracker_options,
        ) as tracker:
            if procs.is_first:
                write_run_config(directory, run_config)
                tracker.log_artifact(directory / CONFIG_NAME)
                on_start(tracker)

            def end_run(error: PeerLostError | None) -> None:
                tracker.close(error=error) if error else tracker.close("KILLED")

            with detect_rank_failure(procs, end_run):
                return train_with(tracker, training, directory, progress=progress)


def prepare(config: Config, procs: Processes, output_dir: Path) -> Training:
    """Load data and build the model of a resolved configuration, or take the checkpoint of ``output_dir``.

    All that can be wrong with settings, data and checkpoints is found here, before a tracker touches the run.
    """
    dataset = load_dataset(config.data)
    trainer = Trainer(config, dataset.train, len(dataset.class_names), procs)
    checkpoint = load_newest(output_dir / CHECKPOINT_FOLDER, map_location=procs.device)
    if checkpoint:
        check_same_run(checkpoint.state["config"], config, checkpoint.path)
        trainer.load_state_dict(checkpoint.state.get("trainer") or checkpoint.state["learner"])  # its earlier name
        logger.info("Continuing from %s, after epoch %d", checkpoint.path, checkpoint.epoch)
    return Training(config, dataset, trainer, procs, first_epoch=checkpoint.epoch + 1 if checkpoint else 0)


def train_with(
    tracker: MetricsTracker, training: Training, output_dir: Path, *, progress: Progress | None = None
) -> TrainResult:
    """Run the epochs that are left, once."""
    config, _, trainer, procs, first_epoch = training
    epochs = config.train.epochs
    progress = progress if procs.is_first else None
    evaluator, maintenance = SampleEvaluator(config, training.dataset, procs.device), AccumulatingTimer()
    row, quality = None, None
    for epoch in range(first_epoch, epochs):
        tracker.start_epoch(epoch)
        _run_batches(tracker, trainer, epoch, epochs, progress)
        with tracker.paused():  # its seconds are not the epoch's
            extra = trainer.diagnostics.read(procs)
            if procs.is_first:
                with maintenance:
                    quality = _draw_and_evaluate(tracker, training, evaluator, epoch)
        extra |= quality.metrics() if quality else {}
        extra["time/maintenance_sec"] = maintenance.take()  # the last epoch's checkpoint, and this one's samples
        row = tracker.end_epoch(model=trainer.model, ema_model=trainer.ema_model, extra=extra)
        if procs.is_first:
            with maintenance:
                state = {"trainer": trainer.state_dict(), "config": config.as_dict()}
                save_checkpoint(output_dir / CHECKPOINT_FOLDER, epoch, state)
        if progress and row:
            progress.on_epoch(row)
    if procs.is_first:  # even with no epoch left: the run may have been killed between the checkpoint and this
        save_model(output_dir, trainer.ema_model, config, training.dataset.class_names)
    return TrainResult(tracker.run_id, first_epoch, epochs, _count_parameters(trainer), row, quality)


def _run_batches(tracker: MetricsTracker, trainer: Trainer, epoch: int, epochs: int, progress: Progress | None) -> None:
    """Train one epoch. No tensor is read here: the host stays ahead of the device until ``end_epoch``."""
    batches = trainer.batches_per_epoch
    for batch, result in enumerate(trainer.train_epoch(epoch), start=1):
        tracker.log_batch(result.loss, lr=result.lr, grad_norm=result.grad_norm, batch_size=result.batch_size)
        if progress:
            progress.on_batch(epoch, batch, batches, epochs)


def _draw_and_evaluate(
    tracker: MetricsTracker, training: Training, evaluator: SampleEvaluator, epoch: int
) -> SampleQuality | None:
    """Log a grid if this epoch has one; evaluate samples after the last epoch and every ``eval_every`` epochs."""
    config, dataset, model = training.config, training.dataset, training.trainer.ema_model
    every, is_last = config.sample.every, epoch + 1 == config.train.epochs
    if every and (epoch == 0 or is_last or (epoch + 1) % every == 0):  # MLflow's slider begins at step 0
        tracker.log_image("samples", sample_grid(model, config, dataset.class_names), epoch)
    is_due = is_last or (config.sample.eval_every and (epoch + 1) % config.sample.eval_every == 0)
    return evaluator.evaluate(model) if is_due and config.sample.eval_per_class else None


def _describe(training: Training) -> dict[str, dict[str, Any]]:
    """Return the settings and the sizes that follow from them."""
    config, dataset = training.config.as_dict(), training.dataset
    config["data"] |= {"train_images": len(dataset.train.labels), "classes": len(dataset.class_names)}
    config["model"] |= {"parameters": _count_parameters(training.trainer)}
    return config


def _count_parameters(trainer: Trainer) -> int:
    return sum(p.numel() for p in trainer.model.parameters())


def check_same_run(before: Mapping[str, Mapping[str, Any]], config: Config, path: Path) -> None:
    """Raise ConfigError for settings that do not continue the run of the checkpoint."""
    for group, settings in config.as_dict().items():
        for name, value in settings.items():
            option, was = f"{group}.{name}", before.get(group, {}).get(name)
            if value != was and not option.startswith(_FREE_ON_RESUME):
                raise ConfigError(
                    f"{option} must be {was!r} to continue from {path}, got {value!r}; keep it, or train into another "
                    "output directory"
                )
