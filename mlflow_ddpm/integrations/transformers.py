"""Tracking for the Trainer of transformers.

::

    from mlflow_ddpm.integrations.transformers import track

    trainer = Trainer(...)
    track(trainer, "./my_metrics")
    trainer.train()

No event of the Trainer has the loss of a batch or the norm before clipping, so ``training_step`` and
``clip_grad_norm_`` of this trainer are wrapped. Beside transformers' own ``MLflowCallback`` both write to one run.
"""

import functools
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mlflow_ddpm.integrations.micro_batches import (
    FrameworkMissingError,
    StepLogger,
    batch_size_of,
    run_status,
    unfinished_run,
)
from mlflow_ddpm.tracker import MetricsTracker

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise FrameworkMissingError("transformers", "transformers accelerate") from error


def track(trainer: Any, output_dir: str | Path, every_n_steps: int | None = None, **tracker_options: Any) -> None:
    """Record the trainings of a Trainer with a :class:`mlflow_ddpm.MetricsTracker`; call it before ``train``.

    Args:
        trainer: a ``transformers.Trainer``.
        output_dir: the tracker's directory; one that holds an unfinished run continues it.
        every_n_steps: one row per this number of optimizer steps; default: one row per epoch.
        tracker_options: further arguments of the tracker.
    """
    recording = _Recording(trainer, Path(output_dir), every_n_steps, tracker_options)
    trainer.add_callback(recording)  # after MLflowCallback, whose run is then the active one
    trainer.training_step = recording.wrap_training_step(trainer.training_step)
    trainer.accelerator.clip_grad_norm_ = recording.wrap_clipping(trainer.accelerator.clip_grad_norm_)
    trainer.evaluate = recording.wrap_pause(trainer.evaluate)
    trainer.train = recording.wrap_train(trainer.train)


class _Recording(TrainerCallback):  # type: ignore[misc]
    """Opens the tracker when training begins, and logs each step."""

    def __init__(self, trainer: Any, directory: Path, every: int | None, options: dict[str, Any]) -> None:
        self._trainer, self._directory, self._every, self._options = trainer, directory, every, options
        self._tracker: MetricsTracker | None = None
        self._steps: StepLogger | None = None
        self._has_ended = False
        self._last: tuple[Any, int | None] | None = None  # the newest micro-batch: its norm may come
        self._is_open = False
        self._paused = ExitStack()

    def wrap_train(self, train: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(train)
        def tracked(*args: Any, **kwargs: Any) -> Any:
            run = _CallbackRun(self._trainer)
            run.activate(unfinished_run(self._directory))
            try:
                result = train(*args, **kwargs)
            except BaseException as error:
                self._end(error)
                run.end(run_status(self._directory) or "FAILED")
                raise
            self._end(None)
            run.end("FINISHED")
            return result

        return tracked

    def wrap_training_step(self, step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)
        def tracked(model: Any, inputs: Any, num_items_in_batch: Any = None, **kwargs: Any) -> Any:
            loss, trainer = step(model, inputs, num_items_in_batch, **kwargs), self._trainer
            is_scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
            if is_scaled is None:
                by_items = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
                is_scaled = by_items or trainer.compute_loss_func is not None
            undivided = loss if is_scaled else loss * trainer.current_gradient_accumulation_steps
            self._last = (undivided, batch_size_of(inputs))
            return loss

        return tracked

    def wrap_clipping(self, clip: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(clip)
        def tracked(*args: Any, **kwargs: Any) -> Any:
            norm = clip(*args, **kwargs)
            if self._steps and self._steps.grad_norm is None and norm is not None:
                self._steps.grad_norm = norm.detach().clone() if hasattr(norm, "detach") else norm
            return norm

        return tracked

    def wrap_pause(self, evaluate: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(evaluate)
        def paused(*args: Any, **kwargs: Any) -> Any:
            if self._tracker is None:
                return evaluate(*args, **kwargs)
            with self._tracker.paused():
                return evaluate(*args, **kwargs)

        return paused

    def _open(self, steps_done: int) -> None:
        if self._tracker is None:
            options = {"resume": self._has_ended and steps_done > 0, **self._options}
            self._tracker = MetricsTracker(self._directory, every_n_steps=self._every, **options)
            self._steps = StepLogger(self._tracker, by_steps=self._every is not None)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what an earlier attempt began: ``auto_find_batch_size`` tries again with smaller batches."""
        self._end(RuntimeError("the training began anew"))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the epoch, in the middle after a resume."""
        is_first = self._tracker is None
        self._open(state.global_step)
        if self._tracker and self._every is None:
            is_counted = hasattr(self._trainer.train_dataset, "__len__")  # else state.epoch is a part of max_steps
            epoch = int((state.epoch or 0.0) + 1e-6) if is_counted else self._tracker.next_epoch
            self._tracker.start_epoch(epoch, partial=is_first and _is_inside(state.epoch))
            self._is_open = True

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the learning rate of this step, before the scheduler changes it."""
        optimizer = kwargs.get("optimizer") or self._trainer.optimizer
        if self._steps:
            self._steps.lr = optimizer.param_groups[0]["lr"]

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log a micro-batch without a step."""
        self._log_last()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the step's last micro-batch, with the norm."""
        self._log_last()
        if self._steps:
            self._steps.end_step(state.global_step)

    def _log_last(self) -> None:
        last, self._last = self._last, None
        if self._steps and last:
            self._steps.add(*last)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the epoch's row."""
        if self._tracker and self._is_open:
            self._is_open = False
            meter = self._tracker._rows.meter  # noqa: SLF001 - ours
            if meter.batches and not meter.batches.batches:  # a resume skipped the whole of this pass
                meter.drop()
                return
            is_cut = control.should_training_stop or control.should_epoch_stop
            self._tracker.end_epoch(partial=is_cut and _is_inside(state.epoch))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pause: what comes now is no part of the last window."""
        if self._tracker:
            self._paused.enter_context(self._tracker.paused())

    def _end(self, error: BaseException | None) -> None:
        tracker, self._tracker, self._steps, self._is_open = self._tracker, None, None, False
        self._paused.close()
        if tracker:
            self._has_ended = True
            tracker.close(error=error)


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

    def activate(self, run_id: str | None) -> None:
        """Let the callback write to the run that the directory holds."""
        if self._is_ours and run_id:
            import mlflow

            mlflow.start_run(run_id=run_id)

    def end(self, status: str) -> None:
        """End the run as the training ended; MLflow itself ends it as FINISHED whatever happened."""
        if self._is_ours and self._is_active():
            import mlflow

            mlflow.end_run(status)
        if self._callback is not None and not self._is_active():
            self._callback._initialized = False  # noqa: SLF001 - for the next training it begins a run
