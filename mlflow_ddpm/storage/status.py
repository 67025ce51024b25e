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
from mlflow_ddpm.storage.layout import CSV_NAME, SAMPLES_FOLDER

__all__ = ["status_of"]


def status_of(directory: Path) -> str:
    """Return a few aligned lines for a terminal. Asks no store, changes nothing.

    Raises:
        HistoryError: the directory is not one that a tracker wrote.
        MirrorError: its files are damaged.
    """
    state = DeliveryState.load(directory)
    if state is None:
        raise HistoryError(f"{directory} is not the output directory of a training run; it has no status")
    rows = keep_last_written(read_csv(directory / CSV_NAME)) if (directory / CSV_NAME).exists() else []
    waiting = sum(row.logged_at_ms > state.delivered_through_ms for row in rows)
    on_disk = images_on_disk(directory)
    new = len(images_on_disk(directory, but=state.pictures))
    new -= sum(name.rpartition("/")[0] == SAMPLES_FOLDER for name in state.set_aside)
    held, complete = is_locked(directory), state.ended and not (waiting or new or state.artifacts)
    lines = [
        ("run", f"{state.run_id or 'not created in MLflow yet'}{f' ({state.run_name})' if state.run_name else ''}"),
        ("store", state.tracking_uri or "not known"),
        ("status", _state(state, held=held)),
        ("epochs", f"{len(rows)} on disk, {len(rows) - waiting} in MLflow, {waiting} waiting"),
        ("pictures", f"{len(on_disk)} on disk, {len(on_disk) - new} in MLflow, {new} waiting"),
        *([("files", f"{len(state.artifacts)} waiting")] if state.artifacts else []),
        *(("set aside", f"{name}: {cause}") for name, cause in state.set_aside.items()),
        ("next", _advice(directory, complete=complete, held=held, has_set_aside=bool(state.set_aside))),
    ]
    return "\n".join([str(directory), *(f"  {name:<10}{text}" for name, text in lines)])


def _state(state: DeliveryState, *, held: bool) -> str:
    if held:
        return "RUNNING: a live process writes here"
    if state.status == "RUNNING":
        return "interrupted: the process ended without reporting a status"
    ended = datetime.fromtimestamp((state.ended_at_ms or 0) / 1000, UTC)
    known = "MLflow has it" if state.ended else "not in MLflow yet"
    return f"{state.status} at {ended:%Y-%m-%d %H:%M:%S} UTC; {known}"


def _advice(directory: Path, *, complete: bool, held: bool, has_set_aside: bool) -> str:
    if complete:
        return "nothing: MLflow has everything" + (" but what is set aside" if has_set_aside else "")
    if held:
        return "nothing: the process uploads by itself"
    return f"mlflow-ddpm sync {shown(directory)}"
