"""What a run has published, brought back from its tracking store: plots, report, data, samples.

The tree under ``metrics/`` of the run's artifacts, as it stands there. Everything is fetched before anything is put in
place, and each file takes its name at once, so that no reader finds half of one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.analysis.history import open_store, run_id_of
from mlflow_ddpm.core.atomic_file import replace_file, shown
from mlflow_ddpm.core.errors import HistoryError, UsageError
from mlflow_ddpm.publishing.publish import check_owner
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, REPORT_NAME

__all__ = ["Downloaded", "download_run"]


class Downloaded(NamedTuple):
    """What came of it."""

    run_id: str
    directory: Path
    files: list[Path]  # sorted


def download_run(run_id: str, directory: str | Path, *, tracking_uri: str | None = None) -> Downloaded:
    """Fetch all that was published of a run into ``directory``; what lies there under other names stays.

    Args:
        run_id: the run, plain or as ``runs:/<id>``.
        directory: made if it is not there.
        tracking_uri: the tracking store; default: MLflow's own settings.

    Raises:
        HistoryError: nothing was published of the run.
        StoreError: the store is away or has no such run.
        UsageError: the directory is a tracker's own, or holds another run's files.
        OSError: the disk is full or read-only.
    """
    run_id, directory = run_id_of(run_id) or run_id, Path(directory)
    if DeliveryState.load(directory) is not None:
        raise UsageError(f"{shown(directory)} is the output directory of a training run; choose another one")
    check_owner(directory, run_id)
    store = open_store(run_id, tracking_uri)
    store.info()
    if f"{ARTIFACT_FOLDER}/{REPORT_NAME}" not in store.list_files(ARTIFACT_FOLDER):
        raise HistoryError(f"run {run_id} has nothing published; publish it with: mlflow-ddpm publish {run_id}")
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".download-") as temporary:
        tree = store.fetch(ARTIFACT_FOLDER, Path(temporary))
        fetched = sorted(path for path in tree.rglob("*") if path.is_file())
        files = [_put(path, directory / path.relative_to(tree)) for path in fetched]
    return Downloaded(run_id, directory, files)


def _put(fetched: Path, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, fetched.read_bytes())
    return path
