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
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mlflow_ddpm.integrations.recording import FrameworkMissingError, Recording, batch_size_of

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise FrameworkMissingError("transformers", "transformers accelerate", error) from error


def track(trainer: Any, output_dir: str | Path, every_n_steps: int | None = None, **tracker_options: Any) -> None:
    """Record the trainings of a Trainer with a :class:`mlflow_ddpm.MetricsTracker`; call it before ``train``.

    Args:
        trainer: a ``transformers.Trainer``.
        output_dir: the tracker's directory; one that holds an unfinished run continues it.
        every_n_steps: one row per this number of optimizer steps; default: one row per epoch.
        tracker_options: further arguments of the tracker.
    """
    callback = _Callback(trainer, Recording(output_dir, every_n_steps, tracker_options))
    trainer.add_callback(callback)  # after MLflowCallback, whose run is then the active one
    for owner, name, around in (
        (trainer, "training_step", callback.training_step),
        (trainer.accelerator, "clip_grad_norm_", callback.clip_grad_norm),
        (trainer, "evaluate", callback.evaluate),
        (trainer, "train", callback.train),
    ):
        method = getattr(owner, name)
        setattr(owner, name, functools.wraps(method)(functools.partial(around, method)))


class _Callback(TrainerCallback):  # type: ignore[misc]
    """Opens the tracker when training begins, and logs each step.

    ``train``, ``training_step``, ``clip_grad_norm`` and ``evaluate`` are called around the trainer's own, their first
    argument.
    """

    def __init__(self, trainer: Any, run: Recording) -> None:
        self._trainer, self._run = trainer, run
        self._last: tuple[Any, int | None] | None = None  # the newest micro-batch: its norm may come

    def train(self, train: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        theirs = _CallbackRun(self._trainer)
        theirs.activate(self._run.unfinished_run)
        try:
            result = train(*args, **kwargs)
        except BaseException as error:
            self._run.end(error)
            theirs.end(self._run.status or "FAILED")
            raise
        self._run.end(None)
        theirs.end("FINISHED")
        return result

    def training_step(
        self, step: Callable[..., Any], model: Any, inputs: Any, num_items_in_batch: Any = None, **kwargs: Any
    ) -> Any:
        loss, trainer = step(model, inputs, num_items_in_batch, **kwargs), self._trainer
        is_scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
        if is_scaled is None:
            by_items = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
            is_scaled = by_items or trainer.compute_loss_func is not None
        undivided = loss if is_scaled else loss * trainer.current_gradient_accumulation_steps
        self._last = (undivided, batch_size_of(inputs))
        return loss

    def clip_grad_norm(self, clip: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        norm = clip(*args, **kwargs)
        if self._run.tracker and self._run.grad_norm is None and norm is not None:
            self._run.grad_norm = norm.detach().clone() if hasattr(norm, "detach") else norm
        return norm

    def evaluate(self, evaluate: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._run.tracker.paused() if self._run.tracker else nullcontext():
            return evaluate(*args, **kwargs)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop what an earlier attempt began: ``auto_find_batch_size`` tries again with smaller batches."""
        self._run.end(RuntimeError("the training began anew"))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the epoch, in the middle after a resume."""
        is_first = self._run.tracker is None
        is_continued = self._run.has_ended and state.global_step > 0
        tracker = self._run.tracker or self._run.open({"resume": is_continued, **self._run.options})
        if self._run.every is not None:
            return
        is_counted = hasattr(self._trainer.train_dataset, "__len__")  # else state.epoch is a part of max_steps
        epoch = int((state.epoch or 0.0) + 1e-6) if is_counted else tracker.next_epoch
        self._run.start_epoch(epoch, partial=is_first and _is_inside(state.epoch))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the learning rate of this step, before the scheduler changes it."""
        optimizer = kwargs.get("optimizer") or self._trainer.optimizer
        self._run.lr = optimizer.param_groups[0]["lr"]

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log a micro-batch without a step."""
        last, self._last = self._last, None
        if last:
            self._run.add(*last)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the step's last micro-batch, with the norm."""
        self.on_substep_end(args, state, control)
        self._run.end_step(state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the epoch's row, unless a resume skipped the whole of this pass."""
        is_cut = control.should_training_stop or control.should_epoch_stop
        self._run.end_epoch(partial=is_cut and _is_inside(state.epoch), keep_empty=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pause: what comes now is no part of the last window."""
        self._run.pause()


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
