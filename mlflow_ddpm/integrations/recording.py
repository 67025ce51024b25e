"""What the integrations share: a framework's training as a tracker records it, and the error of a missing framework."""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.formatting import first_line
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.tracker import MetricsTracker
from mlflow_ddpm.tracking.ema_distance import EmaProbe
from mlflow_ddpm.tracking.step_windows import StepWindows

_log = logging.getLogger("mlflow_ddpm")


class FrameworkMissingError(UsageError, ImportError):
    """The framework of an integration is not installed, or cannot be imported."""

    def __init__(self, framework: str, package: str, error: ImportError) -> None:
        own = package.partition(" ")[0]
        if isinstance(error, ModuleNotFoundError) and f"{error.name}.".startswith(f"{own}."):
            super().__init__(f"{framework} is not installed; install it with: pip install {package}")
        else:
            why = first_line(error)
            super().__init__(f"{framework} cannot be imported ({why}); upgrade it with: pip install -U {package}")


def check_options(options: Iterable[str]) -> None:
    """Raise TypeError for a mistyped option now: the tracker itself is made only when the training begins."""
    known = [name for name in inspect.signature(MetricsTracker).parameters if name != "output_dir"]
    for name in options:
        if name not in known:
            raise TypeError(f"{name!r} is no option of the tracker; its options are {', '.join(known)}")


def batch_size_of(batch: Any) -> int | None:
    """Return the first dimension of the first tensor in a batch, however it is nested; None without a tensor."""
    if hasattr(batch, "ndim") and hasattr(batch, "shape"):
        return int(batch.shape[0]) if batch.ndim else None
    if is_dataclass(batch):
        batch = [getattr(batch, field.name) for field in fields(batch)]
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((size for item in items if (size := batch_size_of(item)) is not None), None)


class Recording:
    """A training by epochs, or with ``every`` by windows of steps; while it is not open, nothing is recorded.

    Of a step's micro-batches a window gets the mean loss. By epochs each is a batch of its epoch, and the norm belongs
    to the last one of its step.
    """

    def __init__(self, output_dir: str | Path, every: int | None, options: dict[str, Any]) -> None:
        check_options(options)
        StepWindows.create(every)  # refuses a wrong length now
        self.directory, self.every, self.options = Path(output_dir), every, options
        self.tracker: MetricsTracker | None = None
        self.ema = EmaProbe()  # of every training
        self.has_ended = False
        self.lr: float | None = None
        self.grad_norm: Any = None
        self._step: list[tuple[Any, int | None]] = []  # loss and size of its micro-batches
        self._paused = ExitStack()
        self._is_in_epoch = self._has_warned = False

    @property
    def status(self) -> str | None:
        """The status of the run that the directory holds."""
        state = DeliveryState.load(self.directory)
        return state.status if state is not None else None

    @property
    def unfinished_run(self) -> str | None:
        """The id of the run that the directory holds, if it has not finished."""
        state = DeliveryState.load(self.directory)
        return state.run_id if state is not None and state.status != "FINISHED" else None

    def open(self, options: dict[str, Any]) -> MetricsTracker:
        """Open the tracker with these arguments."""
        self.tracker = MetricsTracker(self.directory, every_n_steps=self.every, **options)
        self.tracker._rows.ema = self.ema  # noqa: SLF001 - ours
        self._step, self.lr, self.grad_norm, self._has_warned = [], None, None, False
        return self.tracker

    def end(self, error: BaseException | None) -> None:
        """End the run, if it is open: as FINISHED, or as FAILED or KILLED by the error."""
        tracker, self.tracker, self._is_in_epoch = self.tracker, None, False
        try:
            self._paused.close()
        finally:  # it waits for the device, which may have failed
            if tracker:
                self.has_ended = True
                tracker.close(error=error)

    def start_epoch(self, epoch: int, *, partial: bool) -> None:
        """Begin an epoch, if epochs are recorded and none is open."""
        if self.tracker and self.every is None and not self._is_in_epoch:
            self.tracker.start_epoch(epoch, partial=partial)
            self._is_in_epoch = True

    def end_epoch(self, *, partial: bool, keep_empty: bool = True) -> bool:
        """Write the row of the open epoch, and return whether there is one; an empty one only if ``keep_empty``."""
        if self.tracker is None or not self._is_in_epoch:
            return False
        self._is_in_epoch = False
        meter = self.tracker._rows.meter  # noqa: SLF001 - ours
        if not keep_empty and meter.batches is not None and not meter.batches.batches:
            meter.drop()
            return False
        self.tracker.end_epoch(partial=partial)
        return True

    def end_window(self) -> None:
        """Write the last, short window of a training that has ended by itself."""
        if self.tracker and self.every is not None:
            self.tracker._rows.close(has_finished=True)  # noqa: SLF001 - ours

    def pause(self) -> None:
        """Leave out of the epoch's time what comes until :meth:`resume`."""
        if self.tracker:
            self._paused.enter_context(self.tracker.paused())

    def resume(self) -> None:
        """Count time again."""
        self._paused.close()

    def begin(self, steps_done: int) -> None:
        """Note how many steps were done before the first one: a step of two optimizers counts as two."""
        if self.tracker and (windows := self.tracker._rows.windows):  # noqa: SLF001 - ours
            windows.begin(steps_done)

    def add(self, loss: Any, size: int | None) -> None:
        """Note a micro-batch's loss, detached and undivided."""
        if self.tracker and self.every is None:
            self._log(self.tracker.log_batch, loss, size)
        elif self.tracker:
            self._step.append((loss, size))

    def end_step(self, steps_done: int) -> None:
        """Log the optimizer step whose micro-batches were noted."""
        batches, self._step = self._step, []
        if self.tracker is None or self.every is None:
            return
        if not batches:
            self.grad_norm = None
            return
        losses, sizes = zip(*batches, strict=True)
        size = None if None in sizes else sum(filter(None, sizes))
        loss = losses[0] if len(losses) == 1 else sum(losses) / len(losses)  # on the losses' device, unread
        self._log(partial(self.tracker.log_step, steps_done - 1), loss, size)

    def _log(self, log: Callable[..., None], loss: Any, size: int | None) -> None:
        """Log a batch or step; what cannot be recorded is one warning, for a measurement never ends a training."""
        norm, self.grad_norm = self.grad_norm, None
        try:
            log(loss, lr=self.lr, grad_norm=norm, batch_size=size)
        except UsageError as error:
            if not self._has_warned:
                self._has_warned = True
                _log.warning("a batch was not recorded: %s; further cases are not logged", error)
