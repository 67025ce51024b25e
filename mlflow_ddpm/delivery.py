"""The courier: carries rows and pictures to the tracking store, off the training thread, in order, until acknowledged.

Rows are durable in the journal before the courier hears of them, so it may die with the process at any moment: what
the cursor does not count as acknowledged is sent the next time, with its first timestamp. When the store is away the
courier says so once, keeps what it has and tries again at growing intervals; when the store refuses, it says so and
stops.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.cursor import Cursor
from mlflow_ddpm.errors import StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.metrics import EpochMetrics
from mlflow_ddpm.store import RunStore

__all__ = ["Courier", "Picture", "bound_mlflow_waits"]

_log = logging.getLogger("mlflow_ddpm")
_THREAD_NAME = "mlflow_ddpm-courier"
_ROWS_AT_ONCE = 50  # about 900 metrics: one request, under MLflow's limit of 1,000
_PAUSES_SEC = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # between attempts while the store is away


def _not_from_couriers(record: logging.LogRecord) -> bool:
    """Drop urllib3's word on every retry of ours: an outage is told once, by us."""
    return record.threadName != _THREAD_NAME


class Picture(NamedTuple):
    """A picture on disk that belongs to an epoch."""

    name: str
    path: Path
    epoch: int
    timestamp_ms: int


def bound_mlflow_waits() -> None:
    """Keep one call to a dead server from taking MLflow's default of four to twenty minutes.

    MLflow reads these variables at each call and knows no setting per client; what the user has set stays.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


class Courier:
    """Delivers one run. ``open_store`` finds or creates the run; ``introduce`` logs what goes before the first row."""

    def __init__(
        self,
        directory: Path,
        cursor: Cursor,
        *,
        open_store: Callable[[], RunStore],
        introduce: Callable[[RunStore], None],
        rows: Sequence[EpochMetrics] = (),
    ) -> None:
        self._directory, self._cursor = directory, cursor
        self._open_store, self._introduce = open_store, introduce
        self._waiting: deque[EpochMetrics | Picture] = deque(
            row for row in rows if row.logged_at_ms > cursor.delivered_through_ms
        )
        self.store: RunStore | None = None
        self.fault: StoreRefusedError | StoreUnavailableError | None = None
        self._final_status: str | None = None
        self._final_tags: Mapping[str, str] = {}
        self._failures = 0
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True)

    def start(self) -> None:
        """Begin; the run is opened at once."""
        bound_mlflow_waits()
        logging.getLogger("urllib3.connectionpool").addFilter(_not_from_couriers)
        self._wake.set()
        self._thread.start()

    def post(self, parcel: EpochMetrics | Picture) -> None:
        """Have it delivered; return at once."""
        self._waiting.append(parcel)
        if not self._failures:  # while the store is away, the courier keeps its own time
            self._wake.set()

    def wait_open(self, timeout: float) -> RunStore | None:
        """Return the open store, or None if it was not open within ``timeout`` seconds or cannot be."""
        self._wait_for(lambda: self.store is not None or self.fault is not None, timeout)
        return self.store

    def flush(self, timeout: float) -> bool:
        """Return whether everything posted so far was acknowledged within ``timeout`` seconds."""
        return self._deliver_within(timeout, lambda: self.store is not None and not self._waiting)

    def close(self, status: str, tags: Mapping[str, str], timeout: float) -> bool:
        """Deliver what waits, end the run with ``status`` if it is ours, and stop; return whether all was acknowledged.

        Returns within ``timeout`` seconds, whatever the store does.
        """
        self._final_tags = tags
        self._final_status = self._cursor.status = status
        self._save_cursor()
        done = self._deliver_within(timeout, lambda: self._cursor.ended)
        self._stopped = True
        self._wake.set()
        return done

    @property
    def waiting(self) -> int:
        """Number of rows and pictures not yet acknowledged."""
        return len(self._waiting)

    def _deliver_within(self, timeout: float, done: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + timeout
        pause = _PAUSES_SEC[0]
        while self._thread.is_alive() and not isinstance(self.fault, StoreRefusedError):
            self._wake.set()  # an attempt now, not when the pause of an outage is over
            left = deadline - time.monotonic()
            if left <= 0 or self._wait_for(done, min(left, pause)):
                break
        return done()

    def _wait_for(self, done: Callable[[], bool], timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(done, timeout)

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait(self._pause())
            self._wake.clear()
            if isinstance(self.fault, StoreRefusedError):
                return
            self._attempt()

    def _pause(self) -> float | None:
        return _PAUSES_SEC[min(self._failures, len(_PAUSES_SEC)) - 1] if self._failures else None

    def _attempt(self) -> None:
        try:
            self._deliver()
        except (StoreUnavailableError, StoreRefusedError) as error:
            self._report(error)
        except Exception as error:  # noqa: BLE001 - nothing that happens here may reach, or silently end, a training
            self._report(StoreUnavailableError(f"delivery failed: {type(error).__name__}: {error}"))
        else:
            if self._failures:
                _log.warning("MLflow is back; everything that waited has been delivered")
            self._failures, self.fault = 0, None
        with self._changed:
            self._changed.notify_all()

    def _deliver(self) -> None:
        if self.store is None:
            store = self._open_store()
            self._cursor.run_id = store.run_id
            self._save_cursor()
            self._introduce(store)
            with self._changed:
                self.store = store
                self._changed.notify_all()
        while self._waiting:
            self._deliver_next(self.store)
        if self._final_status and not self._cursor.ended:
            if self._final_tags:
                self.store.set_tags(self._final_tags)
            if self._cursor.owned:
                self.store.finish(self._final_status)
            self._cursor.ended = True
            self._save_cursor()

    def _deliver_next(self, store: RunStore) -> None:
        first = self._waiting[0]
        if isinstance(first, Picture):
            if first.path.name not in self._cursor.pictures:
                store.log_image(first.name, first.path, epoch=first.epoch, timestamp_ms=first.timestamp_ms)
                self._cursor.pictures.append(first.path.name)
            count = 1
        else:
            rows = self._leading_rows()
            store.log_rows(rows)
            self._cursor.delivered_through_ms = rows[-1].logged_at_ms
            count = len(rows)
        self._save_cursor()
        for _ in range(count):
            self._waiting.popleft()

    def _leading_rows(self) -> list[EpochMetrics]:
        rows: list[EpochMetrics] = []
        for parcel in list(self._waiting)[:_ROWS_AT_ONCE]:
            if isinstance(parcel, Picture):
                break
            rows.append(parcel)
        return rows

    def _save_cursor(self) -> None:
        try:
            self._cursor.save(self._directory)
        except OSError as error:
            _log.debug("the delivery cursor was not saved: %s", error)  # the mirror warns of the same disk

    def _report(self, error: StoreUnavailableError | StoreRefusedError) -> None:
        first = not self._failures
        self._failures += 1
        self.fault = error
        if first:
            _log.warning(
                "%s. Training goes on; what MLflow lacks waits in %s: `mlflow-ddpm sync %s` sends it",
                error,
                self._directory,
                self._directory,
            )
