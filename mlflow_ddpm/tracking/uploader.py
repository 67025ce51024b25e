"""Uploads one run, off the training thread, in order, until the store has acknowledged it.

Two lanes: rows, tags and the run's end never wait for files; files (pictures, artifacts, the model) have a thread of
their own. Rows are durable in the mirror before the uploader gets them, so it may die with the process at any moment:
what the delivery state does not count as acknowledged is sent the next time, with its first timestamp.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable

from mlflow_ddpm.core.errors import RunMissingError, StoreError, StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.delivery_state import StateFile
from mlflow_ddpm.storage.images import LoggedImage
from mlflow_ddpm.storage.mlflow_call import is_first_use, long_lived_objects_left_alone
from mlflow_ddpm.storage.mlflow_run import METRICS_PER_BATCH
from mlflow_ddpm.tracking.lane import Activity, Lane
from mlflow_ddpm.tracking.live_points import LiveReading
from mlflow_ddpm.tracking.outage import Advice, OutageLog, kind_of_cause
from mlflow_ddpm.tracking.remote_run import RemoteRun
from mlflow_ddpm.tracking.upload_items import Artifact, Tags, UploadItem

_log = logging.getLogger("mlflow_ddpm")
_SILENT_SEC = 60.0  # report an outage after this long without a response: some servers keep a call open for ever
_FAILURES_MAX = 3  # of files, one after the other or not, before a pause
_LIVE_MAX = 8  # readings within epochs that wait, at most


class Uploader:
    """The sink that brings a run to MLflow: ``write``, ``flush``, ``close``.

    ``advice`` is what the log adds to the cause of an outage; without it outages are not logged, see
    :attr:`last_error`. ``items`` are what an earlier process left.
    """

    def __init__(
        self,
        remote: RemoteRun,
        state_file: StateFile,
        *,
        advice: Advice | None,
        items: Iterable[UploadItem] = (),
    ) -> None:
        self.remote, self._file, self._state = remote, state_file, state_file.state
        self._rows: deque[EpochMetrics | Tags] = deque()
        self._live: deque[LiveReading] = deque()
        self._files: deque[LoggedImage | Artifact] = deque()
        self._training_ended = False
        self.activity = Activity()
        self._is_awaited = False
        self._outage = OutageLog("rows", advice, lambda error, _: self._is_awaited and type(error) is RunMissingError)
        self._row_lane = Lane("rows", self._work_on_rows, self._outage, self.activity)
        files = OutageLog("files", advice, is_covered=self._explains_files)
        self._file_lane = Lane("files", self._send_files, files, self.activity)
        for item in items:
            self._put(item)

    def _explains_files(self, error: StoreError, failures: int) -> bool:
        """Return whether the rows' outage or a file that was set aside has shown why files wait, or it is too early."""
        is_logged = kind_of_cause(error) in self.remote.set_aside.logged_causes
        return bool(self._row_lane.last_error) or failures < 2 or is_logged  # noqa: PLR2004

    def start(self) -> None:
        """Begin; the run is opened at once, or as soon as the training thread is quiet."""
        self._row_lane.start()
        self._file_lane.start()

    def write(self, item: UploadItem) -> None:
        """Have it sent; return at once."""
        self.activity.written_at = time.monotonic()
        self._put(item).notify()
        if self._row_lane.busy_sec > _SILENT_SEC and not is_first_use(self.remote.tracking_uri):
            self._outage.failed(StoreUnavailableError(f"MLflow has not answered for {_SILENT_SEC:g} s"))

    def write_live(self, reading: LiveReading) -> None:
        """Have values within an epoch sent when no row waits; a later reading has those of one that is dropped."""
        if len(self._live) < _LIVE_MAX:
            self._live.append(reading)
            self._row_lane.notify()

    def _put(self, item: UploadItem) -> Lane:
        if isinstance(item, (EpochMetrics, Tags)):
            self._rows.append(item)
            return self._row_lane
        # A file that waits is sent as it then is; the first may be under way, with what it held before.
        if not (isinstance(item, Artifact) and item in list(self._files)[1:]):
            self._files.append(item)
        return self._file_lane

    def wait_open(self, timeout: float) -> bool:
        """Open the run now; return whether it was open within ``timeout`` seconds. The caller reports a missing run."""
        if not self.remote.is_open:
            attempts, self._is_awaited = self._row_lane.attempts, True
            self._row_lane.hurry()
            self._row_lane.wait_for(lambda: self.remote.is_open or self._row_lane.attempts > attempts, timeout)
            self._is_awaited = False
        return self.remote.is_open

    def flush(self, timeout: float) -> bool:
        """Return whether MLflow has everything that was written so far, within ``timeout`` seconds."""
        self._send_all(lambda: self.remote.is_open and not self._rows, timeout)
        return self.remote.is_open and not self._rows and not self._files and not self._state.set_aside

    def close(self, outcome: RunOutcome, timeout: float) -> bool:
        """Send what waits, end the run, stop; return whether MLflow has everything.

        Returns within ``timeout`` seconds, whatever the store does. Rows and the run's end go first. After an interrupt
        it may be called once more, before :meth:`stop`.
        """
        self._state.set_outcome(outcome)
        self._file.put()
        self._training_ended = True
        with long_lived_objects_left_alone():
            self._send_all(lambda: self._state.ended, timeout)
        self.stop()
        return self.is_complete

    def _send_all(self, are_rows_sent: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        self._file_lane.hurry()
        self._row_lane.work_until(are_rows_sent, timeout)
        if self.remote.is_open:
            self._file_lane.work_until(lambda: not self._files, max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        """Send nothing more, and leave the delivery state to the directory's next writer."""
        if not self._row_lane.stopped:  # later the directory may be another writer's
            self.remote.set_aside.add_lost(self._files.copy())
        self._file.close()
        self._row_lane.stop()
        self._file_lane.stop()

    @property
    def is_complete(self) -> bool:
        """Whether MLflow has every row and file and the run's end."""
        return self._state.ended and not (self._rows or self._files or self._state.set_aside)

    @property
    def waiting_rows(self) -> int:
        """Number of rows not yet acknowledged."""
        return sum(isinstance(item, EpochMetrics) for item in self._rows.copy())

    @property
    def waiting_files(self) -> int:
        """Number of pictures and other files not yet acknowledged."""
        return len(self._files)

    @property
    def last_error(self) -> StoreError | None:
        """Why the last attempt failed; None if it did not."""
        return self._row_lane.last_error or self._file_lane.last_error

    def _work_on_rows(self) -> None:
        try:
            with self._file.gathered():
                self._send_rows()
            self.remote.set_aside.is_suspect = False
        except Exception:
            self.remote.set_aside.is_suspect = True
            self._live.clear()  # they show how the present epoch goes: later they are of no use
            raise

    def _send_rows(self) -> None:
        """Send rows and tags, then what may wait for them."""
        if not self.remote.is_open:
            self._open()
        while self._rows and not self._row_lane.stopped:
            self._send_next_rows()
        while self._live and not (self._rows or self._row_lane.stopped):
            self._send_live(self._live.popleft())
        if self._row_lane.stopped or self._rows:
            return
        if not self._training_ended:
            self.remote.refresh_description()
        elif not self._state.ended:
            self.remote.finish()

    def _send_live(self, reading: LiveReading) -> None:
        try:
            points = reading()
        except Exception:  # noqa: BLE001 - as of a device whose memory is full; it is no outage of the store
            _log.debug("values within an epoch could not be read", exc_info=True)
        else:
            self.remote.send_points(points)

    def _open(self) -> None:
        self.remote.open()
        if self._row_lane.stopped:  # the tracker was closed meanwhile
            self.remote.end_if_orphaned()
        self._row_lane.changed()
        self._file_lane.hurry()

    def _send_next_rows(self) -> None:
        """Send what stands first: a tag, or as many rows as fit into one request."""
        first = self._rows[0]
        if isinstance(first, Tags):
            self.remote.send_tags(first.tags)
            self._rows.popleft()
            return
        most = max(1, METRICS_PER_BATCH // max(1, len(first.points())))
        rows: list[EpochMetrics] = []
        for index in range(min(most, len(self._rows))):  # no iterator: the training thread may append meanwhile
            item = self._rows[index]
            if isinstance(item, Tags):
                break
            rows.append(item)
        self.remote.send_rows(rows)
        for _ in rows:
            self._rows.popleft()

    def _send_files(self) -> None:
        """Send files; one that the store does not take now makes way for the others and is tried again after them."""
        failures: list[StoreError] = []
        with self._file.gathered():
            for _ in range(len(self._files)):
                if self._file_lane.stopped or not self.remote.is_open or len(failures) == _FAILURES_MAX:
                    break
                item = self._files[0]
                try:
                    if isinstance(item, LoggedImage):
                        self.remote.send_image(item)
                    else:
                        self.remote.send_file(item)
                except StoreError as error:
                    failures.append(error)
                    self._files.rotate(-1)
                else:
                    self._files.popleft()
        if failures:
            raise next((error for error in failures if isinstance(error, StoreRefusedError)), failures[0])
