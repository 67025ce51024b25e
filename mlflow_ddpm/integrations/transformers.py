"""Tracking for the Trainer of transformers.

::

    from mlflow_ddpm.integrations.transformers import track

    trainer = Trainer(...)
    track(trainer, "./my_metrics")
    trainer.train()

No event of the Trainer has the loss of a batch or the norm before clipping, so ``training_step`` and
``clip_grad_norm_`` of this trainer are wrapped. Beside transformers' own ``MLflowCallback`` both write to one run.

The Trainer makes each micro-batch's loss its share of the step's, whether it divides the loss itself or a model does
that by ``num_items_in_batch``. A micro-batch is recorded as its share times the number of shares.
"""

import functools
import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Self

from mlflow_ddpm.integrations.recording import FrameworkMissingError, Recording, batch_size_of
from mlflow_ddpm.tracker import MetricsTracker

try:
    from transformers import TrainerCallback
    from transformers.trainer_utils import has_length
except ImportError as error:
    raise FrameworkMissingError("transformers", "transformers accelerate", error) from error

_log = logging.getLogger("mlflow_ddpm")


def track(
    trainer: Any, output_dir: str | Path, every_n_steps: int | None = None, **tracker_options: Any
) -> "MetricsCallback":
    """Record the trainings of a Trainer with a :class:`mlflow_ddpm.MetricsTracker`; call it before ``train``.

    A second call for the same Trainer, as from a notebook's cell, replaces the first.

    Args:
        trainer: a ``transformers.Trainer``.
        output_dir: the tracker's directory; one that holds an unfinished run continues it.
        every_n_steps: one row per this number of optimizer steps; default: one row per epoch.
        tracker_options: further arguments of the tracker, such as ``config``, ``run_name`` or ``live_every_sec``.

    Returns:
        The callback that records, whose ``watch`` takes an EMA and whose ``tracker`` is the tracker.

    Raises:
        TypeError: the tracker has no such option.
        UsageError: ``every_n_steps`` is not a whole number >= 1.
    """
    run = Recording(output_dir, every_n_steps, tracker_options)
    callbacks = trainer.callback_handler.callbacks
    earlier = next((callback for callback in callbacks if isinstance(callback, MetricsCallback)), None)
    if earlier:
        return earlier.record(run)
    callback = MetricsCallback(trainer, run)
    trainer.add_callback(callback)  # after MLflowCallback, whose run is then the active one
    return callback


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Call ``around`` in place of a method, which becomes its first argument."""
    method = getattr(owner, name)
    setattr(owner, name, functools.wraps(method)(functools.partial(around, method)))


class MetricsCallback(TrainerCallback):  # type: ignore[misc]
    """Opens the tracker when training begins, and logs each step; :func:`track` makes it.

    The methods with a leading underscore are called around those of the Trainer, their first argument. So a step or
    epoch ends after all callbacks, which may update an EMA, whatever their order.
    """

    def __init__(self, trainer: Any, run: Recording) -> None:
        self._trainer, self._run = trainer, run
        self._accelerator: Any = None  # whose clipping is wrapped
        self._epoch = 0
        self._last: tuple[Any, int | None] | None = None  # the newest micro-batch: its norm may come
        _wrap(trainer, "training_step", self._training_step)
        _wrap(trainer, "evaluate", self._evaluate)
        _wrap(trainer, "predict", self._evaluate)
        _wrap(trainer, "train", self._train)
        _wrap(trainer, "_load_best_model", self._end_last_window)
        _wrap(trainer.callback_handler, "on_step_end", self._end_step)
        _wrap(trainer.callback_handler, "on_epoch_end", self._end_epoch)
        _wrap(trainer.callback_handler, "on_train_end", self._end_last_window)

    @property
    def tracker(self) -> MetricsTracker | None:
        """The tracker, while a training runs."""
        return self._run.tracker

    def watch(self, model: Any, ema_model: Any) -> None:
        """Measure the distance between a model and its EMA in every row; raise UsageError if they do not fit."""
        self._run.ema.watch(model, ema_model)

    def record(self, run: Recording) -> Self:
        """Record the trainings to come in another directory, or with other options."""
        self._run = run
        return self

    def _train(self, train: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        theirs = _CallbackRun(self._trainer)
        theirs.activate(self._run.unfinished_run, self._run.directory)
        try:
            result = train(*args, **kwargs)
        except BaseException as error:
            try:
                self._run.end(error)
            finally:  # it waits for the device, which may have failed
                theirs.end(self._run.status or "FAILED")
            raise
        self._run.end(None)
        theirs.end("FINISHED")
        return result

    def _training_step(
        self, step: Callable[..., Any], model: Any, inputs: Any, num_items_in_batch: Any = None, **kwargs: Any
    ) -> Any:
        loss = step(model, inputs, num_items_in_batch, **kwargs)
        self._last = (loss * self._trainer.current_gradient_accumulation_steps, batch_size_of(inputs))
        return loss

    def _clip_grad_norm(self, clip: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        norm = clip(*args, **kwargs)
        if self._run.tracker and self._run.grad_norm is None and norm is not None:
            self._run.grad_norm = norm.detach().clone() if hasattr(norm, "detach") else norm
        return norm

    def _evaluate(self, evaluate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._run.tracker.paused() if self._run.tracker else nullcontext():
            return evaluate(*args, **kwargs)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what an earlier attempt began: ``auto_find_batch_size`` tries again with smaller batches."""
        self._run.end(RuntimeError("the training began anew"))
        if self._accelerator is not self._trainer.accelerator:  # a hyperparameter search makes one for each trial
            self._accelerator = self._trainer.accelerator
            _wrap(self._accelerator, "clip_grad_norm_", self._clip_grad_norm)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the epoch, in the middle after a resume."""
        is_first = self._run.tracker is None
        is_continued = self._run.has_ended and state.global_step > 0
        self._run.resume()
        tracker = self._run.tracker or self._run.open({"resume": is_continued, **self._run.options})
        if self._run.every is not None:
            return
        if is_first and has_length(kwargs["train_dataloader"]):
            self._epoch = int((state.epoch or 0.0) + 1e-6)
        elif is_first:  # state.epoch is a part of max_steps
            self._epoch = tracker.next_epoch
        self._run.start_epoch(self._epoch, partial=is_first and _is_inside(state.epoch))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the learning rate of this step, before the scheduler changes it."""
        optimizer = kwargs.get("optimizer") or self._trainer.optimizer
        self._run.lr = optimizer.param_groups[0]["lr"]

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log a micro-batch without a step."""
        last, self._last = self._last, None
        if last:
            self._run.add(*last)

    def _end_step(self, end: Callable[..., Any], args: Any, state: Any, control: Any) -> Any:
        control = end(args, state, control)
        self.on_substep_end(args, state, control)
        self._run.end_step(state.global_step)
        return control

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the row of an epoch whose last step was saved, now: a training that resumes there skips its end."""
        if not _is_inside(state.epoch) and self._run.end_epoch(partial=False, keep_empty=False):
            self._epoch += 1

    def _end_epoch(self, end: Callable[..., Any], args: Any, state: Any, control: Any) -> Any:
        self._run.pause()  # until the next epoch: other callbacks may sample now, and checkpoints are saved
        control = end(args, state, control)
        is_cut = control.should_training_stop or control.should_epoch_stop
        if self._run.end_epoch(partial=is_cut and _is_inside(state.epoch), keep_empty=False):  # else it was skipped
            self._epoch += 1
        if control.should_training_stop:
            self._run.end_window()  # before the last checkpoint
        return control

    def _end_last_window(self, proceed: Callable[..., Any], *args: Any) -> Any:
        """Measure the window before another model is loaded: an evaluation may have stopped the training."""
        self._run.end_window()
        return proceed(*args)


def _is_inside(epoch: float | None) -> bool:
    return abs((epoch or 0.0) - round(epoch or 0.0)) > 1e-6  # noqa: PLR2004


class _CallbackRun:
    """The run of transformers' own MLflowCallback, which writes to the active one, on the main process alone."""

    def __init__(self, trainer: Any) -> None:
        callbacks = trainer.callback_handler.callbacks
        self._callback = next((c for c in callbacks if type(c).__name__ == "MLflowCallback"), None)
        self._is_ours = (
            self._callback is not None and trainer.is_world_process_zero() and not self._is_active()
        )  # else it is the user's

    @staticmethod
    def _is_active() -> bool:
        import mlflow

        return mlflow.active_run() is not None

    def activate(self, run_id: str | None, directory: Path) -> None:
        """Let the callback write to the run that the directory holds."""
        if self._is_ours and run_id:
            import mlflow

            try:
                mlflow.start_run(run_id=run_id)
            except Exception as error:  # noqa: BLE001 - another store, or a run that was deleted
                _log.warning("the run %s of %s is not in MLflowCallback's store: %s", run_id, directory, error)

    def end(self, status: str) -> None:
        """End the run as the training ended; MLflow itself ends it as FINISHED whatever happened."""
        if self._is_ours and self._is_active():
            import mlflow

            mlflow.end_run(status)
        if self._callback is not None and not self._is_active():
            # For the next training it begins a run; its destructor ends none, which would be that of a later trainer.
            self._callback._initialized = self._callback._auto_end_run = False  # noqa: SLF001 - no public names
