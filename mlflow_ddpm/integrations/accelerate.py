"""A tracker for Accelerate.

::

    from mlflow_ddpm.integrations.accelerate import AccelerateTracker

    accelerator = Accelerator(log_with=AccelerateTracker("./my_metrics", every_n_steps=1000))
    accelerator.init_trackers("project", config=config)
    accelerator.get_tracker("mlflow_ddpm").watch(model, ema_model)
    accelerator.log({"loss": loss, "lr": lr, "grad_norm": norm, "batch_size": len(batch)}, step=steps_done)

Accelerate's ``step`` is the number of steps done. A log with the number of the one before is a micro-batch of the next
step, as diffusers' scripts log them. Other scalars are recorded as their means over the window; those that come without
a loss count in the window that holds their step, or in the next one if its row is written already.
"""

import logging
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import METRICS, whole_number
from mlflow_ddpm.integrations.recording import FrameworkMissingError, check_options
from mlflow_ddpm.tracker import MetricsTracker
from mlflow_ddpm.tracking.scalars import sample_count, scalar

try:
    from accelerate.state import GradientState
    from accelerate.tracking import GeneralTracker
except ImportError as error:
    raise FrameworkMissingError("Accelerate", "accelerate", error) from error

_OWN = ("lr", "grad_norm", "batch_size")
_NO_LOSS = "no row was made, for no value was named loss; accelerator.log got "
_LOSS_NAMES = ("loss", "train_loss", "train/loss")  # the first two are those of diffusers' scripts
_PENDING_MAX = 1024  # logs that wait for a loss: of a loop that never names one, no more are held
_TAKEN = {m.name for m in METRICS} | {"step", "epoch", "logged_at_ms"}

_log = logging.getLogger("mlflow_ddpm")


def _watch_nothing(self: object, model: Any, ema_model: Any) -> None:
    """Do nothing, in a process that records nothing."""


# On other ranks Accelerate's get_tracker returns a bare GeneralTracker, and the script calls watch on that.
if not hasattr(GeneralTracker, "watch"):
    GeneralTracker.watch = _watch_nothing


class AccelerateTracker(GeneralTracker):  # type: ignore[misc]
    """Records what ``accelerator.log`` is given with a :class:`mlflow_ddpm.MetricsTracker`.

    Args:
        output_dir: the tracker's directory; one that holds an unfinished run continues it.
        every_n_steps: one row per this number of steps.
        tracker_options: further arguments of the tracker, such as ``config``, ``run_name`` or ``live_every_sec``.

    Raises:
        TypeError: the tracker has no such option.
        UsageError: ``every_n_steps`` is not a whole number >= 1, or ``reduce_over_ranks`` is on.
    """

    name = "mlflow_ddpm"
    requires_logging_directory = False
    main_process_only = False  # the tracker knows its rank

    def __init__(self, output_dir: str | Path, every_n_steps: int = 1000, **tracker_options: Any) -> None:
        super().__init__()
        check_options(tracker_options)
        if tracker_options.get("reduce_over_ranks"):
            raise UsageError(
                "accelerator.log runs on the main process alone; log accelerator.gather(loss).mean() instead of "
                "reduce_over_ranks=True"
            )
        self._every = whole_number("every_n_steps", every_n_steps, 1)
        self._directory, self._options = Path(output_dir), tracker_options
        self._config: dict[str, Any] = {}
        self._tracker: MetricsTracker | None = None
        self._steps_done: int | None = None
        self._loss_names: tuple[str, ...] = _LOSS_NAMES  # up to the best that came: beside loss, train_loss is a mean
        self._first: int | None = None  # the step of the first log without a loss
        self._pending: deque[dict[str, Any]] = deque(maxlen=_PENDING_MAX)  # came without a loss, for the next window
        self._has_ended = False
        self._refused: set[str] = set()  # what one warning was logged of

    @property
    def tracker(self) -> MetricsTracker:
        """The tracker; it is opened at its first use."""
        if self._tracker is None:
            self._tracker = MetricsTracker(self._directory, every_n_steps=self._every, **self._config | self._options)
        return self._tracker

    def start(self) -> None:
        """Let ``init_trackers`` begin another run after ``end_training``."""
        # Only the caller's frame has the list to which Accelerate appends a tracker at each init_trackers. Counting
        # calls of log is no way around it: the same values at the same step may be two micro-batches.
        trackers = getattr(sys._getframe(1).f_locals.get("self"), "trackers", [])  # noqa: SLF001 - Accelerate's list
        for index in range(len(trackers) - 1, 0, -1):
            if trackers[index] is self and self in trackers[:index]:
                del trackers[index]
        if self._has_ended:
            self._tracker, self._steps_done, self._loss_names, self._has_ended = None, None, _LOSS_NAMES, False
            self._config, self._first = {}, None
            self._pending.clear()

    def store_init_configuration(self, values: Any) -> None:
        """Open the tracker with these hyperparameters."""
        if self._tracker is None:
            self._config = {"config": values}
        _ = self.tracker

    def watch(self, model: Any, ema_model: Any) -> None:
        """Measure the distance between a model and its EMA in every row."""
        self.tracker.watch(model, ema_model)

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log one step, or a micro-batch of the next step if the number of steps done has not risen."""
        loss_name = next((name for name in self._loss_names if values.get(name) is not None), None)
        if loss_name:
            self._loss_names = self._loss_names[: self._loss_names.index(loss_name) + 1]
        extra = {name: value for name, value in values.items() if name not in {*_OWN, *_TAKEN, loss_name}}
        taken = {name: self._take(name, value) for name, value in extra.items() if _is_scalar(value)}
        scalars = {name: value for name, value in taken.items() if value is not None}
        batch = {name: self._take(name, values.get(name)) for name in _OWN}
        loss = self._take("loss", values[loss_name]) if loss_name else None
        try:
            steps_done = self._number(step, is_batch=loss is not None)
            if loss is None:
                self._log_without_loss(batch, scalars, steps_done)
            else:
                self._log({"loss": loss, **batch}, scalars, steps_done)
        except UsageError as error:  # the run was closed, or the step is no number
            self._warn("step", error)

    def _number(self, step: int | None, *, is_batch: bool) -> int:
        """Return the number of steps done; raise UsageError if it is no whole number, or less than before."""
        last = self._steps_done or 0
        steps_done = last + is_batch if step is None else whole_number("step", step)
        if is_batch and steps_done < last:
            raise UsageError(f"step must not fall, got {steps_done} after {last}; count the steps over the whole run")
        return steps_done

    def _log(self, batch: dict[str, Any], scalars: dict[str, Any], steps_done: int) -> None:
        if self._steps_done is None and not GradientState().sync_gradients:
            self._steps_done = steps_done  # a resume inside a step begins with a micro-batch of the next one
        has_risen = steps_done > (self._steps_done or 0)
        earlier = list(self._pending)
        self._pending.clear()
        step = steps_done - 1 if has_risen else None
        self.tracker._rows.add_step(step, batch, scalars, earlier)  # noqa: SLF001 - ours
        self._steps_done = steps_done

    def _log_without_loss(self, batch: dict[str, Any], scalars: dict[str, Any], steps_done: int) -> None:
        for name in (name for name, value in batch.items() if value is not None):
            self._warn(name, UsageError(f"{name} came without a loss and is not recorded; log both in one call"))
        if self._first is None:
            self._first = steps_done
        if scalars and not self.tracker._rows.add_extras(scalars, steps_done):  # noqa: SLF001 - ours
            self._pending.append(scalars)
        if self._steps_done is None and steps_done - self._first >= self._every:
            self._warn("loss", UsageError(_NO_LOSS + self._pending_names()))

    def _pending_names(self) -> str:
        return ", ".join(dict.fromkeys(name for scalars in self._pending for name in scalars))

    def _take(self, name: str, value: Any) -> Any:
        """Return a value as it can be recorded; one that cannot, or whose name cannot, is one warning and None."""
        rows = self.tracker._rows  # noqa: SLF001 - ours
        if value is None:
            return None
        try:
            if name == "batch_size":
                return sample_count(value)
            if name not in {"loss", *_OWN}:
                value = rows.checked_extras({name: value})[name]
            return scalar(name, value)
        except UsageError as error:
            self._warn(name, error)
            return None

    def _warn(self, name: str, error: UsageError) -> None:
        if self._refused.isdisjoint({name, str(error)}):  # one name, or one reason for many names
            self._refused |= {name, str(error)}
            _log.warning("accelerator.log: %s; further cases are not logged", error)

    def finish(self) -> None:
        """End the run."""
        if self._pending and self._steps_done is None:
            self._warn("loss", UsageError(_NO_LOSS + self._pending_names()))
        elif self._pending:
            names = self._pending_names()
            _log.warning("%s came after the last row and is not recorded; log it in one call with the loss", names)
        if self._tracker is not None:
            self._has_ended = True
            self._tracker.close()


def _is_scalar(value: Any) -> bool:
    if hasattr(value, "numel"):
        return bool(value.numel() == 1)
    return hasattr(value, "__float__") and getattr(value, "size", 1) == 1
