"""A callback for Lightning, in both of its namespaces.

::

    from mlflow_ddpm.integrations.lightning import MetricsCallback

    trainer = Trainer(callbacks=[MetricsCallback("./my_metrics")])

Losses are those that ``training_step`` returned, gradient norms are from before clipping, and the learning rate is that
of the step. Validation is kept out of the epoch's time. Beside an ``MLFlowLogger`` both write to one run.

The callback puts itself before the others. It takes the norm before one of them clips, pauses before one of them
samples at the end of an epoch, and writes the last row before ``WeightAveraging`` replaces the weights. Within an
epoch, sample in ``with callback.tracker.paused():``.

The end of a step or epoch is recorded at the next event, a saved checkpoint or the next batch, when all of them have
updated their averages. A row that is written for a checkpoint has the distance that the checkpoint has: an average that
the module itself updates is one step behind.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from mlflow_ddpm.integrations.recording import FrameworkMissingError, Recording, batch_size_of
from mlflow_ddpm.tracker import MetricsTracker
from mlflow_ddpm.tracking.probes import grad_norm

_log = logging.getLogger("mlflow_ddpm")


def _callback_classes() -> tuple[type[Any], ...]:
    classes, errors = [], []
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            classes.append(import_module(f"{package}.callbacks").Callback)
        except ImportError as error:
            errors.append(error)
    if not classes:
        raise FrameworkMissingError("Lightning", "lightning", errors[0]) from errors[0]
    return tuple(classes)


class MetricsCallback(*_callback_classes()):  # type: ignore[misc]
    """Records a fit with a :class:`mlflow_ddpm.MetricsTracker`.

    Args:
        output_dir: the tracker's directory; one that holds an unfinished run continues it.
        every_n_steps: one row per this number of optimizer steps; default: one row per epoch.
        tracker_options: further arguments of the tracker, such as ``config``, ``run_name`` or ``live_every_sec``.

    Raises:
        TypeError: the tracker has no such option.
        UsageError: ``every_n_steps`` is not a whole number >= 1.
    """

    def __init__(self, output_dir: str | Path, every_n_steps: int | None = None, **tracker_options: Any) -> None:
        super().__init__()
        self._run = Recording(output_dir, every_n_steps, tracker_options)
        self._is_watching = False
        self._has_warned = False
        self._made_at_ms = time.time_ns() // 1_000_000
        self._logger_run: _LoggerRun | None = None
        self._loss: Any = None  # what training_step returned: Lightning divides it, in bfloat16 with an error
        self._unwrap = ExitStack()
        self._due: list[Callable[[], object]] = []  # ends of steps and epochs that are not yet recorded

    @property
    def tracker(self) -> MetricsTracker | None:
        """The tracker, while a fit runs."""
        return self._run.tracker

    def watch(self, model: Any, ema_model: Any) -> None:
        """Measure the distance between a model and its EMA; a ``WeightAveraging`` callback is watched by itself."""
        self._run.ema.watch(model, ema_model)
        self._is_watching = True

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let an MLFlowLogger, which has just begun a run of its own, continue the one that the directory holds."""
        trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]
        logger_run = self._joinable(trainer) if stage == "fit" else None
        unfinished = self._run.unfinished_run if logger_run else None
        if logger_run and unfinished:
            logger_run.continue_run(unfinished, self._run.directory, self._made_at_ms)

    def _joinable(self, trainer: Any) -> _LoggerRun | None:
        """Return the run of an MLFlowLogger, on rank 0, where the user chose no other."""
        if trainer.global_rank != 0 or "run_id" in self._run.options:
            return None
        return _LoggerRun.find(trainer.loggers)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Open the tracker."""
        is_continued = self._run.has_ended and bool(trainer.global_step or trainer.ckpt_path)
        self._logger_run = self._joinable(trainer)
        target = self._logger_run.target() if self._logger_run else {}
        tracker = self._run.open({"resume": is_continued, **self._run.options, **target})
        self._wrap_training_step(trainer.strategy)
        averages = (getattr(callback, "_average_model", None) for callback in trainer.callbacks)
        average = next((average for average in averages if average is not None), None)
        if average is not None and not self._is_watching:
            tracker.watch(pl_module, average)

    def _wrap_training_step(self, strategy: Any) -> None:
        """Note what each training_step returns; the module stays as it is, so that it can be pickled."""
        step = strategy.training_step

        def tracked(*args: Any, **kwargs: Any) -> Any:
            output = step(*args, **kwargs)
            loss = output.get("loss") if isinstance(output, Mapping) else output
            self._loss = loss.detach().clone() if isinstance(loss, Tensor) else loss  # a CUDA graph writes it anew
            return output

        strategy.training_step = tracked
        self._unwrap.callback(vars(strategy).pop, "training_step", None)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Write the row of the epoch before, without waiting for a batch of this one."""
        self._record_what_ended()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin the epoch with its first batch: a resume inside an epoch has no other sign of it."""
        self._record_what_ended()
        self._run.resume()
        self._run.begin(trainer.global_step)
        self._run.start_epoch(trainer.current_epoch, partial=batch_idx > 0)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Take the norm after unscaling and before clipping, and the learning rate before the scheduler's step.

        Of several optimizers the last one counts, with its own parameters.
        """
        if self.tracker:
            self._run.grad_norm = grad_norm(p for group in optimizer.param_groups for p in group["params"])
            self._run.lr = optimizer.param_groups[0]["lr"]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the batch."""
        loss, self._loss = self._loss, None
        has_stepped = self._run.grad_norm is not None
        if loss is not None:
            self._run.add(loss, batch_size_of(batch))
        elif self.tracker and not (pl_module.automatic_optimization or self._has_warned):
            self._has_warned = True
            _log.warning("training_step returned no loss, so that none is recorded; return {'loss': loss.detach()}")
        if has_stepped:
            self._due.append(partial(self._run.end_step, trainer.global_step))
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._run.pause()  # validation begins with the start of its data loader, before any hook

    def _record_what_ended(self) -> None:
        due, self._due = self._due, []
        for record in due:
            record()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Pause until the next batch."""
        self._record_what_ended()
        if not trainer.sanity_checking:
            self._run.pause()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """End the epoch, and pause until the next one: what other callbacks do now is no part of a window's time."""
        is_partial = not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        self._due.append(partial(self._run.end_epoch, partial=is_partial))
        self._run.pause()

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Write the row before a checkpoint from which its steps would not be done again.

        That may be before ``on_train_epoch_end``: after the epoch's last batch, or the validation that follows it.
        """
        self._record_what_ended()
        progress = trainer.fit_loop.epoch_loop.batch_progress
        if progress.is_last_batch and progress.current.processed == progress.current.ready:
            self._run.end_epoch(partial=False)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the last epoch or window, which may be short."""
        self._record_what_ended()
        self._run.end_window()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """End the run, before the loggers do; until here other callbacks may use the tracker, or fail."""
        self._end(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End the run as FAILED or KILLED."""
        self._end(exception)

    def _end(self, error: BaseException | None) -> None:
        was_open = self.tracker is not None
        self._unwrap.close()
        try:
            self._record_what_ended()
        finally:  # the run ends, even if a row cannot be written
            self._run.end(error)
            if was_open and self._logger_run:
                self._logger_run.will_end_as(self._run.status)


class _LoggerRun:
    """The run that an MLFlowLogger writes to: the tracker joins it, also after a resume."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._uri: str = logger._tracking_uri  # noqa: SLF001 - it has no public name

    @classmethod
    def find(cls, loggers: Iterable[Any]) -> Self | None:
        """Return the run of the first MLFlowLogger; None without one."""
        logger = next((logger for logger in loggers if type(logger).__name__ == "MLFlowLogger"), None)
        return None if logger is None else cls(logger)

    def target(self) -> dict[str, str]:
        """Return the tracker's arguments that join the run."""
        return {"run_id": self._logger.run_id, "tracking_uri": self._uri}

    def continue_run(self, run_id: str, directory: Path, since_ms: int) -> None:
        """Turn the logger to an earlier run; the empty one that it began after ``since_ms`` is deleted.

        A run that the user chose, or one with content, stays the logger's; then one warning names the remedy.
        """
        if run_id == self._logger.run_id:
            return
        import mlflow

        client, active = self._logger.experiment, mlflow.active_run()
        try:
            experiment_id = client.get_run(run_id).info.experiment_id
            begun = client.get_run(self._logger.run_id)
        except Exception as error:  # noqa: BLE001 - another store, or a run that was deleted
            _log.warning("the run %s of %s is not in MLFlowLogger's store: %s", run_id, directory, error)
            return
        is_users = active is not None and active.info.run_id == begun.info.run_id
        if is_users or begun.data.metrics or begun.data.params or begun.info.start_time < since_ms:
            _log.warning(
                "%s holds the unfinished run %s, and MLFlowLogger writes to run %s; for one run pass "
                "MLFlowLogger(run_id=%r), or another output_dir",
                directory,
                run_id,
                self._logger.run_id,
                run_id,
            )
            return
        client.delete_run(self._logger.run_id)
        client.update_run(run_id, status="RUNNING")
        self._logger._run_id, self._logger._experiment_id = run_id, experiment_id  # noqa: SLF001 - no public names

    def will_end_as(self, status: str | None) -> None:
        """Let the logger end the run with this status; its own ``finalize`` makes a killed or pruned one FAILED."""
        logger = self._logger

        def finalize(logger_status: str) -> None:
            del logger.finalize  # its own again, for the next training
            logger.finalize(logger_status)
            logger.experiment.set_terminated(logger.run_id, status)

        if status in ("KILLED", "FINISHED"):
            logger.finalize = finalize
