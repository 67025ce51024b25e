"""The rows of a run being made: an epoch or window is opened, its batches are noted, and its row is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.core.errors import MirrorError, PeerLostError, UsageError
from mlflow_ddpm.core.extra_metrics import check_new_extra_names
from mlflow_ddpm.core.formatting import count_of
from mlflow_ddpm.core.metrics import EpochMetrics, whole_number
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.tracking.ema_distance import EmaProbe
from mlflow_ddpm.tracking.epoch_meter import EpochMeter
from mlflow_ddpm.tracking.live_points import LiveMeter
from mlflow_ddpm.tracking.null_recorder import NullRecorder, Recorder
from mlflow_ddpm.tracking.scalars import join_collectives
from mlflow_ddpm.tracking.shutdown import ShutdownHandler, classify_exit
from mlflow_ddpm.tracking.step_windows import StepWindows

if TYPE_CHECKING:
    from mlflow_ddpm.tracking.run_recorder import RunRecorder

_log = logging.getLogger("mlflow_ddpm")


class RowMeasurement:
    """Measures one epoch or window at a time, and writes its row, on rank 0.

    ``windows`` are those of a loop that counts steps; ``number`` is that of the epoch which is open.
    """

    def __init__(self, meter: EpochMeter, windows: StepWindows | None, rank: int, live: LiveMeter) -> None:
        self.meter, self.windows, self.live, self.ema = meter, windows, live, EmaProbe()
        self.recorder: Recorder = NullRecorder()
        self.shutdown: ShutdownHandler | None = None
        self.number, self.is_partial = -1, False
        self.has_measures = rank == 0 or meter.peers.reduces
        self._rank, self._peers = rank, meter.peers
        self._extras: set[str] | None = None  # names of all rows, those of before a resume included
        self._batches_before = 0  # in the whole run, before the epoch that is open

    @property
    def is_epoch_open(self) -> bool:
        """Whether batches of an epoch are taken."""
        return self.meter.batches is not None and self.windows is None

    def watch_exit(self) -> None:
        """Let rank 0 know when this rank fails."""
        self.shutdown = ShutdownHandler(partial(self._peers.publish_failure, self._rank))
        self.shutdown.start(with_signals=False)

    def record_to(self, recorder: RunRecorder) -> None:
        """Open a recorder, and end its run when the process ends; the other ranks get to know where it is."""
        self.recorder, self.shutdown = recorder, ShutdownHandler(self.end)
        try:
            self.shutdown.start()
            recorder.open()
            self._peers.publish_next_epoch(recorder.next_epoch)
        except BaseException as error:  # an interrupt as well
            try:
                recorder.abandon(error)
            finally:
                self.shutdown.stop()
            if isinstance(error, OSError):  # out of file descriptors, of memory for a thread, ...
                message = f"the system refused what a run needs ({error}); begin again when it can be had"
                raise MirrorError(message) from error
            raise

    def open_epoch(self, epoch: Any, *, partial: bool) -> None:
        """Begin an epoch. Raises as :meth:`mlflow_ddpm.MetricsTracker.start_epoch`."""
        number = whole_number("epoch", epoch)
        if self.windows:
            raise UsageError("start_epoch is for loops that count epochs; with every_n_steps call log_step alone")
        if self.is_epoch_open:
            raise UsageError(f"epoch {self.number} is still open; call end_epoch before start_epoch({number})")
        if number <= self.number or self.number < 0:  # else :meth:`write_row` has added them up
            self._batches_before = sum(row.batches or 0 for row in self.recorder.rows if row.epoch < number)
        self.number, self.is_partial = number, partial
        self.open("start_epoch")

    def open(self, method: str) -> None:
        """Begin an epoch or window, if this rank measures anything; raise UsageError if the run was closed."""
        self.recorder.require_open(method)
        if self.has_measures:
            self._begin()

    def _begin(self) -> None:
        if self.shutdown:
            self.shutdown.epoch_begins()
        self.meter.open()
        if self._rank == 0:
            self.live.open()

    def checked_extras(self, extra: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return extras, having checked their names, each once; raises as :func:`check_new_extra_names`."""
        if self._extras is None:
            self._extras = {name for row in self.recorder.rows for name in row.extra}
        if not self._extras.issuperset(extra):
            check_new_extra_names(extra, self._extras)
            self._extras.update(extra)
        return extra

    def write_live(self, steps_done: int | None = None) -> None:
        """Have what was logged since the last live point uploaded, at the number of steps, or batches, done so far."""
        if batches := self.meter.batches:
            step = self._batches_before + batches.batches if steps_done is None else steps_done
            self.recorder.write_live(self.live.take(batches, step, self.meter.timer.paused_sec))

    def refuse(self, method: str) -> None:
        """Raise for a call without an open epoch; a rank that measures nothing opens none."""
        self.recorder.require_open(method)
        if self.has_measures:
            way = "with every_n_steps call log_step alone" if self.windows else "call start_epoch first"
            raise UsageError(f"{method} needs an open epoch; {way}")

    def add_step(
        self,
        step: int | None,
        values: Mapping[str, Any],
        extra: Mapping[str, Any],
        earlier: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """Note a step of a window; without a number, a batch of the next. Raises as ``MetricsTracker.log_step``.

        The window also gets ``earlier``, further scalars that came, checked, before it was open.
        """
        windows = self.windows
        if windows is None:
            raise UsageError("log_step is for loops that count steps; open MetricsTracker(..., every_n_steps=N)")
        if not self.has_measures:
            join_collectives(*values.values(), *extra.values())
            return
        done = None if step is None else windows.check(step)
        self.checked_extras(extra)
        if done is not None and (overdue := windows.overdue(done)):
            self.recorder.require_open("log_step")
            self._end_window(windows, overdue)
        is_first = self.meter.batches is None
        if is_first:
            self.open("log_step")
        self.meter.add(values, extra, is_untimed=is_first)
        for scalars in earlier:
            self.meter.add_extras(scalars)
        if is_first and done is not None and self._is_logged_once(before := done - windows.every):
            windows.begin(before)
        if done is not None and windows.note(done):
            self._end_window(windows, done)
        elif time.monotonic() >= self.live.due:
            self.write_live(windows.steps_done or self.recorder.next_epoch)  # the first step may have many batches

    def add_extras(self, extra: Mapping[str, Any], steps_done: int) -> bool:
        """Add further scalars, checked, without a batch; return whether the open window holds their step."""
        self.recorder.require_open("log_step")
        if not self.has_measures:  # rank 0 knows
            return True
        windows = self.windows
        is_held = windows is not None and windows.has_steps and steps_done <= windows.window_end
        if is_held:
            self.meter.add_extras(extra)
        return is_held

    def _is_logged_once(self, before: int) -> bool:
        """Return whether a window begun after ``before`` steps has one step, as the last row had: all the loop logs."""
        rows = self.recorder.rows
        last = next((row for row in reversed(rows) if row.epoch <= before), None)
        return (last.epoch, last.batches, last.partial) == (before, 1, 0) if last else not (before or rows)

    def _end_window(self, windows: StepWindows, number: int) -> None:
        self.write_row(number, {}, partial=windows.is_partial(number))
        windows.end(number)
        self._begin()

    def write_row(
        self, number: int, extra: Mapping[str, float], *, partial: bool, model: Any = None, ema_model: Any = None
    ) -> EpochMetrics | None:
        """Write the row of what was measured, and close it; return the row, or None on ranks other than 0."""
        measured = self.meter.read()
        is_partial = partial or (self.is_partial and self.windows is None)
        if self._rank != 0:
            self.meter.drop()
            return None
        before = self.windows.began if self.windows else number - 1
        row = EpochMetrics(
            **measured.fields,
            epoch=number,
            partial=int(is_partial),
            cumulative_time_sec=self.recorder.seconds_through(before) + measured.fields["epoch_time_sec"],
            ema_delta_norm=self.ema.measure(model, ema_model),
            extra={**measured.extras, **extra},
            logged_at_ms=self.recorder.next_timestamp(),
        )
        self.meter.drop()
        self._batches_before += row.batches or 0
        self.recorder.write(row)
        self.meter.warn_of_nonfinite(row, measured.batches, "the window up to step" if self.windows else "epoch")
        return row

    def end_as(self, status: str | None, error: BaseException | None, timeout: float) -> bool:
        """End the run as :meth:`mlflow_ddpm.MetricsTracker.close` is asked to."""
        try:
            outcome = self.shutdown.outcome_at_close(status, error) if self.shutdown else classify_exit(error)
            return self.end(outcome, timeout, is_final=status == "FINISHED")
        except BaseException as interrupt:  # a second close may never come
            self.end(classify_exit(interrupt), timeout)
            raise

    def end(self, outcome: RunOutcome, timeout: float = 30.0, *, is_final: bool = False) -> bool:
        """Close what is open and end the run; return whether MLflow has everything.

        Where another rank has failed, so has the run, unless the outcome ``is_final``.
        """
        if self._rank:
            self._peers.publish_failure(self._rank, outcome)
        try:
            try:
                self.close(has_finished=outcome.status == "FINISHED" and not self._peers.lost_rank())
            finally:  # after an interrupt, too
                if not is_final and outcome.status != "FAILED" and (lost := self._peers.lost_rank()):
                    outcome = classify_exit(PeerLostError(lost))  # also where the launcher's signal ended this rank
                is_complete = self.recorder.close(outcome, timeout)
            return is_complete
        finally:
            if self.shutdown:
                self.shutdown.stop()  # whatever came in between: the handlers are as they were before

    def close(self, *, has_finished: bool) -> None:
        """Keep the open window, marked as partial; drop the open epoch, which a resume does again, with a warning."""
        count = self.meter.batches.batches if self.meter.batches else 0
        if count and self.windows:
            if self.windows.has_steps:  # else it holds micro-batches of a step that was not done
                self._keep_window(self.windows, has_finished=has_finished)
        elif count and self._rank == 0:
            batches = count_of(count, "batch was", "batches were")
            _log.warning("epoch %d was still open when the run ended: its %s dropped", self.number, batches)
        self.meter.drop()

    def _keep_window(self, windows: StepWindows, *, has_finished: bool) -> None:
        if not has_finished:  # the other ranks may be gone
            self._peers.stop_reducing()
        try:
            self.write_row(windows.steps_done, {}, partial=windows.is_partial(windows.steps_done))
        except Exception as error:  # noqa: BLE001 - a device that failed; the run must end all the same
            _log.warning("the last steps up to %d were dropped: %s", windows.steps_done, error)
