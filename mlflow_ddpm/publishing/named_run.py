"""Which run is meant, and whose directory it is: by a run id, or by a directory that a tracker or a download filled."""

from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.analysis.history import load_history
from mlflow_ddpm.core.errors import HistoryError, UsageError
from mlflow_ddpm.core.formatting import display_path
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.foreign_files import own_file
from mlflow_ddpm.storage.json_file import read_document
from mlflow_ddpm.storage.layout import CSV_NAME, DELIVERY_STATE_NAME, JSON_NAME
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.storage.run_search import find_run, open_store
from mlflow_ddpm.storage.store_address import store_of


class NamedRun(NamedTuple):
    """A run in a tracking store, and the directory that named it, if one did."""

    store: MlflowRun
    directory: Path | None


def name_run(source: str | Path, tracking_uri: str | None = None) -> NamedRun:
    """Return the run that a run id, its first letters, a directory, or a CSV or JSON in one means.

    A directory names its run's id. Credentials go only to a store that the caller or MLflow's settings name.

    Raises:
        HistoryError: there is nothing of this name, or it does not know its run.
        MirrorError: the directory's files are damaged.
        StoreError: the store has no such run, or cannot be asked.
        UsageError: the directory alone names its store, or the first letters fit several runs.
    """
    path = Path(source)
    if not str(source) or not path.exists():
        return NamedRun(find_run(source, tracking_uri), None)
    directory = path if path.is_dir() else path.parent
    run_id = _run_of(directory) if path.is_dir() else load_history(path).run_id or _run_of(directory)
    if run_id is None:
        raise HistoryError(
            f"{display_path(path)} names no run of a tracking store; send it to one with mlflow-ddpm sync"
        )
    state = _delivery_state(directory)
    return NamedRun(open_store(run_id, store_of(state, tracking_uri) if state else tracking_uri), directory)


def _delivery_state(directory: Path) -> DeliveryState | None:
    return DeliveryState.load(directory) if own_file(directory, DELIVERY_STATE_NAME) else None


def _run_of(directory: Path) -> str | None:
    """Return the id of the run whose files a directory holds, None if it does not say."""
    state = _delivery_state(directory)
    if state and state.run_id:
        return state.run_id
    document = own_file(directory, JSON_NAME)
    run_id = read_document(document, with_rows=False).run.get("run_id") if document else None
    return run_id if isinstance(run_id, str) else None


def has_history(directory: Path) -> bool:
    """Return whether a directory holds the rows of a run."""
    return any((directory / name).exists() for name in (CSV_NAME, JSON_NAME))


def check_owner(directory: Path, run_id: str) -> None:
    """Raise UsageError for a directory that holds another run's files, MirrorError for damaged ones."""
    owner = _run_of(directory)
    if owner not in (None, run_id):
        raise UsageError(f"{display_path(directory)} holds run {owner}, not {run_id}; choose another output directory")
