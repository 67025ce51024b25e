"""The courier: carries rows and pictures to the tracking store, off the training thread, in order, until acknowledged.

Rows are durable in the journal before the courier hears of them, so it may die with the process at any moment: what
the cursor does not count as acknowledged is sent the next time, with its first timestamp. When the store is away the
courier says so once, keeps what it has and tries again at growing intervals. A store that refuses (a run deleted in the
UI, an expired token) is asked again only once a minute, since somebody may mend it.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.core.atomic_file import shown
from mlflow_ddpm.core.errors import StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.images import LoggedImage
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, CSV_NAME, JSON_NAME, MODEL_FOLDER, model_files
from mlflow_ddpm.storage.mlflow_run import NONE_LOGGED, LoggedPoints, MlflowRun

__all__ = ["Artifact", "Tags", "UploadItem", "Uploader", "bound_mlflow_waits"]

_log = logging.getLogger("mlflow_ddpm")
_THREAD_NAME = "mlflow_ddpm-courier"
_ROWS_AT_ONCE = 50  # about 900 metrics: one request, under MLflow's limit of 1,000
# Share of the time, at most, in which rows are on their way, and the longest rest that follows from it. While MLflow's
# client computes, a training step that lets go of the interpreter's lock waits for it: epochs of a fifth of a second
# would lose a third of their speed. Longer epochs than the rest are delivered one by one, at once.
_SHARE, _REST_SEC_MAX = 0.005, 10.0
_SILENT_SEC = 60.0  # without an answer, and without an end: some servers keep a call open for ever
_PAUSES_SEC = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # between attempts while the store is away


def _not_from_couriers(record: logging.LogRecord) -> bool:
    """Drop urllib3's word on every retry of ours: an outage is told once, by us."""
    return record.threadName != _THREAD_NAME


class Tags(NamedTuple):
    """Tags that became known while the run goes on."""

    tags: Mapping[str, str]


class Artifact(NamedTuple):
    """A file of the specified tree; one that is lost on the way can be made and logged again (publishing)."""

    path: Path


UploadItem = EpochMetrics | LoggedImage | Tags | Artifact


def bound_mlflow_waits() -> None:
    """Keep one call to a dead server from taking MLflow's default of four to twenty minutes.

    MLflow reads these variables at each call and knows no setting per client; what the user has set stays.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


class Uploader:
    """Delivers one run.

    ``open_store`` finds or creates the run; ``introduce`` logs what goes before the first row, ``conclude`` what comes
    after the last.
    """

    def __init__(
        self,
        directory: Path,
        cursor: DeliveryState,
        *,
        open_store: Callable[[], MlflowRun],
        introduce: Callable[[MlflowRun], None],
        conclude: Callable[[MlflowRun], None],
        parcels: Iterable[UploadItem] = (),
    ) -> None:
        self._directory, self._cursor = directory, cursor
        self._open_store, self._introduce, self._conclude = open_store, introduce, conclude
        self._waiting: deque[UploadItem] = deque(parcels)
        self._held: LoggedPoints | None = (
            None if self._waiting else NONE_LOGGED
        )  # None: some of it may have arrived unheard
        self.store: MlflowRun | None = None
        self.fault: StoreRefusedError | StoreUnavailableError | None = None
        self._training_ended = False
        self._failures = self._attempts = 0
        self._busy_since = math.inf  # when the attempt began that is under way
        self._told = False  # of the present outage
        self._changed = threading.Condition()
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._stopped = False
        self._saving = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True)

    def start(self) -> None:
        """Begin; the run is opened at once."""
        bound_mlflow_waits()
        logging.getLogger("urllib3.connectionpool").addFilter(_not_from_couriers)
        self._wake.set()
        self._thread.start()

    def post(self, parcel: UploadItem) -> None:
        """Have it delivered; return at once."""
        self._waiting.append(parcel)
        if time.monotonic() - self._busy_since > _SILENT_SEC:
            self._tell_outage(f"MLflow has not answered for {_SILENT_SEC:g} s")
        if not self._failures:  # while the store is away, the courier keeps its own time
            self._wake.set()

    def wait_open(self, timeout: float) -> MlflowRun | None:
        """Return the open store, or None if it was not open within ``timeout`` seconds or cannot be."""
        if not self._wait_for(lambda: self.store is not None or self.fault is not None, timeout):
            self._tell_outage(f"MLflow has not answered for {timeout:.0f} s")
        return self.store

    def flush(self, timeout: float) -> bool:
        """Return whether everything posted so far was acknowledged within ``timeout`` seconds."""
        return self._deliver_within(timeout, lambda: self.store is not None and not self._waiting)

    def close(self, timeout: float) -> bool:
        """Deliver what waits, end the run as the cursor says if it is ours, stop; return whether all was acknowledged.

        Returns within ``timeout`` seconds, whatever the store does.
        """
        self.save_cursor()
        self._training_ended = True
        try:
            return self._deliver_within(timeout, lambda: self._cursor.ended)
        finally:
            self.stop()

    def stop(self) -> None:
        """Send nothing more, and leave the cursor to the directory's next writer."""
        with self._saving:
            self._stopped = True
        self._wake.set()
        self._hurry.set()

    @property
    def waiting(self) -> int:
        """Number of rows and pictures not yet acknowledged."""
        return sum(isinstance(parcel, EpochMetrics | LoggedImage) for parcel in list(self._waiting))

    def _deliver_within(self, timeout: float, done: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + timeout
        pause, attempts = _PAUSES_SEC[0], self._attempts
        while self._thread.is_alive() and not (self._is_refused() and self._attempts > attempts):
            self._hurry.set()  # an attempt now, not when the rest after a delivery or the pause of an outage is over
            self._wake.set()
            left = deadline - time.monotonic()
            if left <= 0 or self._wait_for(done, min(left, pause)):
                break
        return done()

    def _is_refused(self) -> bool:
        return isinstance(self.fault, StoreRefusedError)

    def _wait_for(self, done: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(done, timeout)

    def _run(self) -> None:
        while True:
            self._wake.wait(self._pause())
            self._wake.clear()
            self._hurry.clear()  # now, so that whoever is in a hurry from here on is not made to wait for a rest
            if self._stopped:
                return
            opened, began = self.store is not None, time.monotonic()
            self._busy_since = began
            self._attempt()
            self._busy_since = math.inf
            if opened and not self._failures:
                self._hurry.wait(min((time.monotonic() - began) / _SHARE, _REST_SEC_MAX))

    def _pause(self) -> float | None:
        if self._is_refused():
            return _PAUSES_SEC[-1]
        return _PAUSES_SEC[min(self._failures, len(_PAUSES_SEC)) - 1] if self._failures else None

    def _attempt(self) -> None:
        try:
            self._deliver()
        except (StoreUnavailableError, StoreRefusedError) as error:
            self._report(error)
        except Exception as error:  # noqa: BLE001 - nothing that happens here may reach, or silently end, a training
            self._report(StoreUnavailableError(f"delivery failed: {type(error).__name__}: {error}"))
        else:
            if self._told and not self._stopped:
                _log.warning("MLflow is back; everything that waited has been delivered")
            self._failures, self.fault, self._told = 0, None, False
        with self._changed:
            self._attempts += 1
            self._changed.notify_all()

    def _deliver(self) -> None:
        if self.store is None:
            store = self._open_store()
            self._cursor.run_id = store.run_id
            self.save_cursor()
            self._introduce(store)
            with self._changed:
                self.store = store
                self._changed.notify_all()
        while self._waiting and not self._stopped:
            self._deliver_next(self.store)
        if self._training_ended and not (self._waiting or self._stopped or self._cursor.ended):
            self._finish_run(self.store)

    def _finish_run(self, store: MlflowRun) -> None:
        """Log what comes after the last row, and end the run if it is ours."""
        if self._cursor.final_tags:
            store.set_tags(self._cursor.final_tags)
        self._conclude(store)
        for name in (CSV_NAME, JSON_NAME):
            if (self._directory / name).exists():
                store.log_file(self._directory / name, ARTIFACT_FOLDER)
        for path in model_files(self._directory):
            store.log_file(path, MODEL_FOLDER)
        if self._cursor.owned:
            store.finish(self._cursor.status, self._cursor.ended_at_ms)
        self._cursor.ended = True
        self.save_cursor()

    def _deliver_next(self, store: MlflowRun) -> None:
        first, count = self._waiting[0], 1
        if self._held is None:
            self._held = store.held()
        if isinstance(first, LoggedImage):
            self._send_picture(store, first)
        elif isinstance(first, Tags):
            store.set_tags(first.tags)
        elif isinstance(first, Artifact):
            if first.path.exists():
                store.log_file(first.path, self._folder_of(first.path))
        else:
            rows = self._leading_rows()
            store.log_rows(rows, self._held)
            self._cursor.delivered_through_ms = rows[-1].logged_at_ms
            count = len(rows)
        self.save_cursor()
        for _ in range(count):
            self._waiting.popleft()

    def _folder_of(self, path: Path) -> str:
        """Return where a file is logged: one in a folder of the output directory keeps that folder."""
        here, parent = self._directory.absolute(), path.absolute().parent
        below = parent.relative_to(here) if parent.is_relative_to(here) else Path()
        return (Path(ARTIFACT_FOLDER) / below).as_posix()

    def _send_picture(self, store: MlflowRun, picture: LoggedImage) -> None:
        if picture.path.exists():  # else somebody has cleaned up: nothing is left to send
            at = {"epoch": picture.epoch, "timestamp_ms": picture.timestamp_ms}
            store.log_image(picture.name, picture.path, **at, held=self._held or NONE_LOGGED)
        self._cursor.pictures = {**self._cursor.pictures, picture.path.name: picture.timestamp_ms}

    def _leading_rows(self) -> list[EpochMetrics]:
        rows: list[EpochMetrics] = []
        for parcel in list(self._waiting)[:_ROWS_AT_ONCE]:
            if not isinstance(parcel, EpochMetrics):
                break
            rows.append(parcel)
        return rows

    def save_cursor(self) -> None:
        """Put the cursor on disk, unless stopped."""
        try:
            with self._saving:
                if not self._stopped:
                    self._cursor.save(self._directory)
        except OSError as error:
            _log.debug("the delivery cursor was not saved: %s", error)  # the mirror warns of the same disk

    def _report(self, error: StoreUnavailableError | StoreRefusedError) -> None:
        self._failures += 1
        self._held = None  # the answer may have been lost on the way back
        self.fault = error
        self._tell_outage(str(error))

    def _tell_outage(self, what: str) -> None:
        """Say so, once an outage."""
        if not self._told and not self._stopped:
            self._told = True
            where = shown(self._directory)
            _log.warning(
                "%s. Training goes on; what MLflow lacks waits in %s and is sent when the store takes it; after the "
                "run, `mlflow-ddpm sync %s` sends it",
                *(what, where, where),
            )
