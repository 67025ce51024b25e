"""Late delivery: what MLflow lacks of a run is sent from its output directory, by whoever has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlflow_ddpm.core.errors import HistoryError, RunMissingError, StoreRefusedError, StoreUnavailableError, UsageError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.storage.csv_file import read_csv
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.directory_lock import is_locked
from mlflow_ddpm.storage.images import images_on_disk
from mlflow_ddpm.storage.json_file import RunDocument, read_document
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME
from mlflow_ddpm.storage.run_target import RunTarget, absolute_uri, open_run
from mlflow_ddpm.tracking.run_recorder import RunRecorder, unix_ms
from mlflow_ddpm.tracking.shutdown import RunOutcome

__all__ = ["sync_directory"]

_REPORT_SEC = 1.0


def sync_directory(
    directory: Path,
    *,
    tracking_uri: str | None = None,
    timeout: float = 300.0,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Deliver what waits in an output directory and return one line that says what became of it.

    A run that never reached a store, or that another store than ``tracking_uri`` has, is created with its own start
    time. It may be interrupted and repeated at will; nothing is made twice.

    Args:
        directory: where a tracker wrote, here or elsewhere.
        tracking_uri: the tracking store; default: the one of the run.
        timeout: seconds to wait for the store.
        progress: called about once a second with the number of rows and pictures that wait, now and at first.

    Raises:
        HistoryError: the directory is not one that a tracker wrote.
        UsageError: a live process is writing there; it delivers by itself.
        StoreRefusedError: the store will not take the run.
        StoreUnavailableError: the store is still away; everything is kept.
    """
    deadline = time.monotonic() + timeout
    path = directory / JSON_NAME
    cursor = DeliveryState.load(directory)
    if cursor is None and not path.exists():
        raise HistoryError(f"{directory} is not the output directory of a training run; nothing to send")
    rows = read_csv(directory / CSV_NAME) if (directory / CSV_NAME).exists() else []
    if cursor and tracking_uri:
        _readdress(cursor, directory, absolute_uri(tracking_uri))
    if cursor and cursor.ended and _has_all(cursor, directory, rows):
        return f"{directory}: run {cursor.run_id} was complete in MLflow ({len(rows)} epochs)"
    told = read_document(path) if path.exists() else RunDocument({}, {}, {}, [])
    ending = _ending(cursor, told, rows)
    recording = RunRecorder(
        directory,
        RunTarget(tracking_uri or ""),
        config=told.config,
        tags={},
        environment=told.environment,
        resume=True,
        now_ms=unix_ms,
        ending=ending,
    )
    at_first = recording.courier.waiting
    if progress:
        _report(recording, progress, deadline)
    if not recording.close(ending, max(0.0, deadline - time.monotonic())):
        raise recording.courier.fault or StoreUnavailableError(
            f"the store took {at_first - recording.courier.waiting} of {at_first} rows and pictures in {timeout:g} s; "
            "run the command again for the rest"
        )
    return f"{directory}: run {recording.run_id} is complete in MLflow ({len(recording.mirror.rows)} epochs)"


def _has_all(cursor: DeliveryState, directory: Path, rows: Sequence[EpochMetrics]) -> bool:
    sent = all(row.logged_at_ms <= cursor.delivered_through_ms for row in rows)
    return sent and not images_on_disk(directory, but=cursor.pictures)


def _ending(cursor: DeliveryState | None, told: RunDocument, rows: Sequence[EpochMetrics]) -> RunOutcome:
    """Return how the training ended. One that could not say so was killed, some time after its last row."""
    last = rows[-1].logged_at_ms if rows else None
    if cursor is None:
        status = told.run.get("status") or "RUNNING"
        return RunOutcome("KILLED" if status == "RUNNING" else status, at_ms=told.run.get("end_time_ms") or last)
    if cursor.status == "RUNNING":
        return RunOutcome("KILLED", at_ms=last or cursor.started_at_ms)
    why = cursor.final_tags
    return RunOutcome(cursor.status, why.get("error.type", ""), why.get("error.message", ""), cursor.ended_at_ms)


def _readdress(cursor: DeliveryState, directory: Path, tracking_uri: str) -> None:
    """Aim the delivery at another store. A store that does not know the run gets all of it, as a run of its own."""
    if cursor.run_id is None or redact(tracking_uri) == cursor.tracking_uri:
        return
    if is_locked(directory):
        raise UsageError(f"{directory} is being written by a live process; it delivers by itself, to where it was told")
    try:
        open_run(RunTarget(tracking_uri, cursor.run_id), started_at_ms=0, tags={})
    except RunMissingError:
        cursor.run_id, cursor.owned, cursor.ended = None, True, False
        cursor.delivered_through_ms, cursor.pictures = 0, {}
    cursor.tracking_uri = redact(tracking_uri)
    cursor.save(directory)


def _report(recording: RunRecorder, progress: Callable[[int, int], None], deadline: float) -> None:
    """Tell how many wait, now and at first, until none does, the store refuses or time is up."""
    at_first = recording.courier.waiting
    while (left := deadline - time.monotonic()) > 0 and not recording.courier.flush(min(_REPORT_SEC, left)):
        if isinstance(recording.courier.fault, StoreRefusedError):
            return
        progress(recording.courier.waiting, at_first)
