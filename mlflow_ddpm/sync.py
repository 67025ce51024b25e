"""Late delivery: what MLflow lacks of a run is sent from its output directory, by whoever has it."""

from __future__ import annotations

from pathlib import Path

from mlflow_ddpm.csvfile import CSV_NAME, read_csv
from mlflow_ddpm.cursor import Cursor
from mlflow_ddpm.endings import Ending
from mlflow_ddpm.errors import HistoryError, StoreUnavailableError
from mlflow_ddpm.recording import Recording, unix_ms
from mlflow_ddpm.run_choice import RunWish
from mlflow_ddpm.snapshot import JSON_NAME, read_snapshot

__all__ = ["sync_directory"]


def sync_directory(directory: Path, *, tracking_uri: str | None = None, timeout: float = 300.0) -> str:
    """Deliver what waits in an output directory and return one line that says what became of it.

    A run that never reached a store is created, with its own start time. Repeating it sends nothing twice.

    Raises:
        HistoryError: the directory is not one that a tracker wrote.
        UsageError: a live process is writing there; it delivers by itself.
        StoreRefusedError: the store will not take the run.
        StoreUnavailableError: the store is still away; everything is kept.
    """
    cursor = Cursor.load(directory)
    path = directory / JSON_NAME
    if cursor is None or not path.exists():
        raise HistoryError(f"{directory} is not the output directory of a training run; nothing to send")
    rows = read_csv(directory / CSV_NAME) if (directory / CSV_NAME).exists() else []
    if cursor.ended and all(row.logged_at_ms <= cursor.delivered_through_ms for row in rows):
        return f"{directory}: run {cursor.run_id} was complete in MLflow ({len(rows)} epochs)"
    told = read_snapshot(path)
    ending = Ending(cursor.status if cursor.status != "RUNNING" else "KILLED")
    recording = Recording(
        directory,
        RunWish(tracking_uri or ""),
        config=told.config,
        tags={},
        environment=told.environment,
        resume=True,
        now_ms=unix_ms,
    )
    waiting = recording.courier.waiting
    if not recording.close(ending, timeout):
        raise recording.courier.fault or StoreUnavailableError(
            f"the store took {waiting - recording.courier.waiting} of {waiting} rows and pictures in {timeout:g} s; "
            "run the command again for the rest"
        )
    return f"{directory}: run {recording.run_id} is complete in MLflow ({len(recording.mirror.rows)} epochs)"
