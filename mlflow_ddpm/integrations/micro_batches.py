"""What the integrations share: micro-batches of a step, their sizes, and the error of a missing framework."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.tracker import MetricsTracker

_log = logging.getLogger("mlflow_ddpm")


class FrameworkMissingError(UsageError, ImportError):
    """The framework of an integration is not installed."""

    def __init__(self, framework: str, package: str) -> None:
        super().__init__(f"{framework} is not installed; install it with: pip install {package}")


def batch_size_of(batch: Any) -> int | None:
    """Return the first dimension of the first tensor in a batch, however it is nested; None without a tensor."""
    if hasattr(batch, "ndim") and hasattr(batch, "shape"):
        return int(batch.shape[0]) if batch.ndim else None
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ()
    return next((size for item in items if (size := batch_size_of(item)) is not None), None)


def run_status(output_dir: Path) -> str | None:
    """Return the status of the run that a directory holds."""
    state = DeliveryState.load(output_dir)
    return state.status if state is not None else None


def unfinished_run(output_dir: Path) -> str | None:
    """Return the id of the run that a directory holds and that has not finished."""
    state = DeliveryState.load(output_dir)
    return state.run_id if state is not None and state.status != "FINISHED" else None


class StepLogger:
    """Logs batches to a tracker, by epochs or by windows of steps; a step's micro-batches become its mean loss.

    Without ``by_steps`` each micro-batch is a batch of its epoch, and the norm belongs to the last one of its step.
    """

    def __init__(self, tracker: MetricsTracker, *, by_steps: bool) -> None:
        self.tracker, self._by_steps = tracker, by_steps
        self._step: list[tuple[Any, int | None]] = []  # loss and size of its micro-batches
        self.lr: float | None = None
        self.grad_norm: Any = None
        self._has_warned = False

    def begin(self, steps_done: int) -> None:
        """Note how many steps were done before the first one: a step of two optimizers counts as two."""
        if windows := self.tracker._rows.windows:  # noqa: SLF001 - ours
            windows.begin(steps_done)

    def add(self, loss: Any, size: int | None) -> None:
        """Note a micro-batch's loss, detached and undivided."""
        if self._by_steps:
            self._step.append((loss, size))
        else:
            self._log(self.tracker.log_batch, loss, size)

    def end_step(self, steps_done: int) -> None:
        """Log the optimizer step whose micro-batches were noted."""
        batches, self._step = self._step, []
        if not self._by_steps:
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
