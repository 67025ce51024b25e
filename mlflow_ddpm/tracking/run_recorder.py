"""One run being recorded: the mirror on disk first, then the uploader. Other ranks than 0 have a NullRecorder."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.core.errors import RunMissingError, UsageError
from mlflow_ddpm.core.formatting import in_steps, short_repr
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.delivery_state import StateFile
from mlflow_ddpm.storage.images import save_image
from mlflow_ddpm.storage.layout import DELIVERY_STATE_NAME, JSON_NAME
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.storage.mlflow_run import NONFINITE_TAG, clean_tags
from mlflow_ddpm.storage.run_target import RunTarget
from mlflow_ddpm.tracking.findings_watch import FindingsWatch
from mlflow_ddpm.tracking.live_points import LiveReading
from mlflow_ddpm.tracking.outage import Unsent, advice, missing_remedy, warn_unsent
from mlflow_ddpm.tracking.remote_run import RemoteRun
from mlflow_ddpm.tracking.resume import axis_tags, begin_or_resume, move_finished, set_axis
from mlflow_ddpm.tracking.run_metadata import RunMetadata
from mlflow_ddpm.tracking.shutdown import insist
from mlflow_ddpm.tracking.system_metrics import wants_system_metrics
from mlflow_ddpm.tracking.upload_items import Artifact, Tags, final_files, folder_of, undelivered
from mlflow_ddpm.tracking.uploader import Uploader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlflow_ddpm.analysis.findings.rules import Finding

_log = logging.getLogger("mlflow_ddpm")
_OPEN_WAIT_SEC = 10.0  # for the store, when the run's id is asked for
_ABANDON_SEC, _INTERRUPTED_SEC = 1.0, 5.0  # for the store, when a constructor, or a close, was interrupted


class RunRecorder:
    """Records the run of an output directory. Nothing is touched before :meth:`open`."""

    def __init__(
        self,
        directory: Path,
        target: RunTarget,
        *,
        config: object,
        tags: Mapping[str, str],
        environment: Mapping[str, Any],
        resume: bool,
        every_n_steps: int | None = None,
        now_ms: Callable[[], int],
        system_metrics: bool | None = None,
    ) -> None:
        self._has_system_metrics = wants_system_metrics(system_metrics)
        self._now_ms, self._pid, self._is_closed, self._waited_for_id = now_ms, os.getpid(), False, False
        self._metadata = RunMetadata.create(config, tags, environment)
        self._target = target.without_credentials(self._metadata.hidden)
        self._resume, self._every_n_steps = resume, every_n_steps
        self._uploader: Uploader | None = None
        self._is_fork_logged = False
        self._mirror = Mirror(directory.absolute())  # absolute: it stays

    def open(self) -> None:
        """Open or resume the run; after any error, call :meth:`abandon`. Raises as the tracker does."""
        self._mirror.open()
        if not self._resume and move_finished(self._mirror, self._target):
            self._mirror = Mirror(self._mirror.directory)
            self._mirror.open()
        self._state, self._target = begin_or_resume(self._mirror, self._target, self._now_ms, resume=self._resume)
        set_axis(self._mirror, self._state, self._every_n_steps)
        if self._mirror.previous_config:
            self._metadata.compare_config(self._mirror.previous_config)
        self._state.set_outcome(None)
        self._file = StateFile(self._mirror.directory, self._state)
        self._has_nonfinite = any(row.faulty_batches for row in self._mirror.rows)
        self._resuming, self._uploaded_ms = bool(self._mirror.rows), max((r.logged_at_ms for r in self.rows), default=0)
        wanted = {"run_id": self._target.run_id, "run_name": self._target.run_name}
        self._mirror.describe(config=self._metadata.config, environment=self._metadata.environment)
        self._mirror.update_run({**self._state.as_run(), **{key: value for key, value in wanted.items() if value}})
        run = (self._target, self._mirror, self._file, self._metadata)
        self._remote = RemoteRun(*run, has_system_metrics=self._has_system_metrics)
        advise = partial(advice, directory=self._mirror.directory, tracking_uri=self._target.tracking_uri)
        items = undelivered(self._mirror.directory, self._mirror.rows, self._state)
        uploader = Uploader(self._remote, self._file, advice=advise, items=items)
        about = (self._mirror, self._metadata.environment, self._every_n_steps)
        self._findings = FindingsWatch(*about, uploader.write, uploader.activity)
        self._uploader = uploader
        # On disk from here on: a kill leaves enough behind for a resume or a sync.
        self._file.put(tags=self._state.tags or clean_tags(self._metadata.tags))
        self._mirror.flush()
        self._uploader.start()
        joins = self._target.run_id is not None and not self._target.is_own  # or gets a child run, if it is taken
        if joins and not self._uploader.wait_open(_OPEN_WAIT_SEC - 1):
            if isinstance(error := self._uploader.last_error, RunMissingError):
                where = self._mirror.directory if self._mirror.rows else None
                raise RunMissingError(f"{error}; {missing_remedy(where, self._target.tracking_uri)}")
            self._waited_for_id = True

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id. The first call waits for it, at most ten seconds; None while no store was reached."""
        uploader = None if self._waited_for_id or self._is_closed or self._is_forked() else self._uploader
        if self._state.run_id is None and uploader:
            uploader.wait_open(_OPEN_WAIT_SEC)
            self._waited_for_id = True  # not before: other threads that ask meanwhile wait, too
        return self._state.run_id

    @property
    def tracking_uri(self) -> str:
        """Where the run is, credentials included."""
        return self._target.tracking_uri

    @property
    def next_epoch(self) -> int:
        """The first epoch without a row, or the first step: a row by steps bears the number of steps done."""
        return self._mirror.rows[-1].epoch + (not self._state.every_n_steps) if self._mirror.rows else 0

    @property
    def rows(self) -> Sequence[EpochMetrics]:
        """The rows so far, one an epoch."""
        return self._mirror.rows

    def require_open(self, method: str) -> None:
        """Raise UsageError if the run was closed."""
        if self._is_closed:
            raise UsageError(
                f"{method} came after the tracker was closed; open another with resume=True to add to the run"
            )

    def write(self, row: EpochMetrics) -> None:
        """Make the row durable, then have it uploaded. A forked child (a data loader's worker) writes nothing."""
        if self._is_forked():
            if not self._is_fork_logged:
                self._is_fork_logged = True
                _log.warning(
                    "nothing is recorded in a process that was forked from the tracker's; open the tracker here"
                )
            return
        self._mirror.write(row)
        if self._resuming:
            self._mark_resume(row.epoch)
        self._upload_new_rows()
        self._findings.notify()
        if row.faulty_batches and not self._has_nonfinite:
            self._has_nonfinite = True
            first = f"first in epoch {row.epoch}"
            self._sink.write(Tags({NONFINITE_TAG: in_steps(first) if self._every_n_steps else first}))

    def write_live(self, reading: LiveReading) -> None:
        """Have values within the epoch uploaded. They are no rows, and lost if the store is away."""
        if self._uploader:
            self._uploader.write_live(reading)

    def on_finding(self, callback: Callable[[Finding], object]) -> None:
        """Call back for each new finding, on a thread of its own; raise UsageError if that cannot be called."""
        if not callable(callback):
            raise UsageError(f"on_finding takes a function of a finding, got {short_repr(callback)}")
        self._findings.callbacks.append(callback)

    @property
    def has_all_rows(self) -> bool:
        """Whether MLflow has every row."""
        return self._remote.is_open and not self._sink.waiting_rows

    def write_image(self, name: str, image: NDArray[np.uint8], epoch: int) -> Path | None:
        """Keep a picture as PNG, then have it uploaded, from memory if the disk refuses it. Raises as ``log_image``."""
        self.require_open("log_image")
        if self._is_forked():
            return None
        image_file = save_image(self._mirror.directory, name, image, epoch)
        if image_file.error:
            self._mirror.warn(image_file.error)
        drawn_anew = image_file.path.name
        self._file.put(pictures=lambda sent: {name: at for name, at in sent.items() if name != drawn_anew})
        self._sink.write(image_file)
        return image_file.path

    def write_artifact(self, path: Path) -> None:
        """Have a file logged among the run's artifacts; raise UsageError if the tracker was closed."""
        self.require_open("log_artifact")
        if not self._is_forked():
            path = Path(os.path.abspath(path))  # noqa: PTH100 - a ".." would be a folder of that name in MLflow
            self._upload_files([Artifact(path, folder_of(path, self._mirror.directory))])

    def next_timestamp(self) -> int:
        """Return the time for a new row, later than the last row's, and before what the loop logs in MLflow next."""
        last = self._mirror.rows[-1].logged_at_ms if self._mirror.rows else 0
        return max(self._now_ms() - 1, last + 1)

    def seconds_through(self, number: int) -> float:
        """Return the run's seconds up to the last row of at most this number, those before a resume included."""
        earlier = next((row for row in reversed(self._mirror.rows) if row.epoch <= number), None)
        seconds = (earlier.cumulative_time_sec if earlier else None) or 0.0
        return seconds if 0 <= seconds < math.inf else 0.0  # a person may have edited the CSV

    def flush(self, timeout: float) -> bool:
        """Bring JSON and MLflow up to this moment; return whether MLflow has everything, within ``timeout`` seconds."""
        if self._is_forked() or self._is_closed:
            return self._sink.is_complete
        deadline = time.monotonic() + timeout
        is_on_disk = self._mirror.flush(timeout)
        return self._sink.flush(max(0.0, deadline - time.monotonic())) and is_on_disk

    def close(self, outcome: RunOutcome, timeout: float) -> bool:
        """Upload what waits, end the run, write the mirror a last time; return whether MLflow has everything."""
        if self._is_forked() or self._is_closed:
            return self._sink.is_complete
        try:
            return self._end(outcome, timeout)
        except BaseException:  # an interrupt: a second close may never come
            insist(partial(self._end, outcome), _INTERRUPTED_SEC)
            raise
        finally:
            insist(lambda _: self._let_go(outcome), _INTERRUPTED_SEC)

    def _end(self, outcome: RunOutcome, timeout: float) -> bool:
        """Upload what waits, and end the run, at its last row at the earliest; return whether MLflow has everything."""
        began_ms = max(self._state.started_at_ms, self.rows[-1].logged_at_ms if self.rows else 0)
        outcome = outcome._replace(error_message=redact(outcome.error_message, self._metadata.hidden))
        outcome = outcome._replace(at_ms=max(began_ms, outcome.at_ms or self._now_ms()))
        self._upload_new_rows()
        self._mirror.update_run({**self._state.as_run(), "status": outcome.status, "end_time_ms": outcome.at_ms})
        self._mirror.flush()  # now: SIGKILL may follow SIGTERM
        self._findings.close(timeout)
        self._upload_files(final_files(self._mirror.directory))
        return self._sink.close(outcome, timeout)

    def _let_go(self, outcome: RunOutcome) -> None:
        """Stop the threads, write the mirror a last time, and log what MLflow does not have."""
        sink, directory, uri = self._sink, self._mirror.directory, self._target.tracking_uri
        self._findings.stop()
        sink.stop()
        if not self._is_closed:
            is_on_disk = self._mirror.close(outcome)
            self._is_closed = True
            if not sink.is_complete:
                unsent = Unsent(sink.waiting_rows, sink.waiting_files, len(self._state.set_aside), self._state.ended)
                warn_unsent(unsent, sink.last_error, directory, uri, is_on_disk=is_on_disk)

    def abandon(self, error: BaseException) -> None:
        """Undo an :meth:`open` that ``error`` broke off: the caller never gets this object, so it is closed here."""
        try:
            if self._uploader and not isinstance(error, RunMissingError):
                status = "FAILED" if isinstance(error, Exception) else "KILLED"
                self.close(RunOutcome(status, type(error).__name__, str(error)), _ABANDON_SEC)
        finally:
            if self._uploader:
                self._uploader.stop()
            self._mirror.abandon()
        if isinstance(error, RunMissingError) and not self._mirror.rows and not self._mirror.previous_run:
            for name in (DELIVERY_STATE_NAME, JSON_NAME):  # leave no trace of a run that does not exist
                (self._mirror.directory / name).unlink(missing_ok=True)

    @property
    def _sink(self) -> Uploader:
        if self._uploader is None:
            raise UsageError("the tracker was never opened")
        return self._uploader

    def _is_forked(self) -> bool:  # a copy in a data loader's worker, say, which records nothing
        return os.getpid() != self._pid

    def _upload_new_rows(self) -> None:
        """Have rows uploaded that were not yet: an interrupt may have come between writing one and uploading it."""
        new = list(takewhile(lambda row: row.logged_at_ms > self._uploaded_ms, reversed(self._mirror.rows)))
        for row in reversed(new):
            self._sink.write(row)
            self._uploaded_ms = row.logged_at_ms

    def _upload_files(self, artifacts: list[Artifact]) -> None:
        """Have files uploaded, noted on disk, so that a sync sends what an outage keeps back."""
        names = [self._remote.name_of(artifact.path) for artifact in artifacts]
        self._file.put(artifacts=lambda waiting: list(dict.fromkeys([*waiting, *names])))
        for artifact in artifacts:
            self._sink.write(artifact)

    def _mark_resume(self, epoch: int) -> None:
        self._resuming = False
        self._file.put(resumed_at_epochs=lambda earlier: [*(e for e in earlier if e < epoch), epoch])
        self._mirror.update_run(self._state.as_run())
        self._sink.write(Tags(axis_tags(self._state)))
