"""What MLflow has of the run in an output directory, and what waits: read from the disk alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from mlflow_ddpm.core.atomic_file import shown
from mlflow_ddpm.core.errors import HistoryError
from mlflow_ddpm.core.metrics import keep_last_written
from mlflow_ddpm.storage.csv_file import read_csv
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.directory_lock import is_locked
from mlflow_ddpm.storage.images import images_on_disk
from mlflow_ddpm.storage.layout import CSV_NAME

__all__ = ["status_of"]


def status_of(directory: Path) -> str:
    """Return a few aligned lines for a terminal. Asks no store, changes nothing.

    Raises:
        HistoryError: the directory is not one that a tracker wrote.
        MirrorError: its files are damaged.
    """
    cursor = DeliveryState.load(directory)
    if cursor is None:
        raise HistoryError(f"{directory} is not the output directory of a training run; nothing to tell")
    rows = keep_last_written(read_csv(directory / CSV_NAME)) if (directory / CSV_NAME).exists() else []
    waiting = sum(row.logged_at_ms > cursor.delivered_through_ms for row in rows)
    on_disk = images_on_disk(directory)
    new = len(images_on_disk(directory, but=cursor.pictures))
    held = is_locked(directory)
    lines = [
        ("run", f"{cursor.run_id or 'not created in MLflow yet'}{f' ({cursor.run_name})' if cursor.run_name else ''}"),
        ("store", cursor.tracking_uri or "not known"),
        ("status", _state(cursor, held=held)),
        ("epochs", f"{len(rows)} on disk, {len(rows) - waiting} in MLflow, {waiting} waiting"),
        ("pictures", f"{len(on_disk)} on disk, {len(on_disk) - new} in MLflow, {new} waiting"),
        ("next", _advice(directory, complete=cursor.ended and not waiting and not new, held=held)),
    ]
    return "\n".join([str(directory), *(f"  {name:<9}{text}" for name, text in lines)])


def _state(cursor: DeliveryState, *, held: bool) -> str:
    if held:
        return "RUNNING: a live process writes here"
    if cursor.status == "RUNNING":
        return "cut off: its process ended without a word"
    ended = datetime.fromtimestamp((cursor.ended_at_ms or 0) / 1000, UTC)
    known = "MLflow knows" if cursor.ended else "MLflow does not know yet"
    return f"{cursor.status} at {ended:%Y-%m-%d %H:%M:%S} UTC; {known}"


def _advice(directory: Path, *, complete: bool, held: bool) -> str:
    if complete:
        return "nothing: MLflow has everything"
    if held:
        return "nothing: the process delivers by itself"
    return f"mlflow-ddpm sync {shown(directory)}"
