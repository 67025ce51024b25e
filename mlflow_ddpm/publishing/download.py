"""What a run has published, brought back from its tracking store: plots, report, data, samples.

The tree under ``metrics/`` of the run's artifacts, as it stands there. Everything is fetched before anything is put in
place, and each file takes its name at once, so that no reader finds half of one.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.analysis.history import load_history
from mlflow_ddpm.core.errors import HistoryError, MirrorError, UsageError
from mlflow_ddpm.core.formatting import count_of, display_path
from mlflow_ddpm.publishing.named_run import check_owner, name_run
from mlflow_ddpm.publishing.publish import epochs_missing_from
from mlflow_ddpm.storage.artifacts import Artifact, Artifacts
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.foreign_files import is_link_below
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, CSV_NAME, JSON_NAME, REPORT_NAME
from mlflow_ddpm.storage.mlflow_run import MlflowRun

_DATA = (f"{ARTIFACT_FOLDER}/{CSV_NAME}", f"{ARTIFACT_FOLDER}/{JSON_NAME}")


class Downloaded(NamedTuple):
    """What a download brought."""

    run_id: str
    directory: Path
    files: list[Path]  # sorted


def download_run(run: str | Path, directory: str | Path, *, tracking_uri: str | None = None) -> Downloaded:
    """Fetch all that was published of a run into ``directory``; what lies there under other names stays.

    Of a run that still trains, this is what has been logged so far. Files whose names begin with a dot, and links in a
    store on this machine, are left out.

    Args:
        run: a run id, its first letters, ``runs:/<id>``, the ``models:/`` URI of its model, or an output directory (or
            the CSV or JSON in it) of the run.
        directory: made if it is not there.
        tracking_uri: the tracking store; default: MLflow's own settings.

    Raises:
        HistoryError: nothing was published of the run.
        MirrorError: the store sends more than a run has, or the directory's own files are damaged.
        StoreError: the store is away or has no such run.
        UsageError: the directory is a tracker's own, holds another run's files, or epochs that were not published.
        OSError: the disk is full or read-only.
    """
    store, directory = name_run(run, tracking_uri).store, Path(directory)
    if DeliveryState.load(directory) is not None:
        raise UsageError(f"{display_path(directory)} is the output directory of a training run; choose another one")
    check_owner(directory, store.run_id)
    artifacts = Artifacts(store)
    listed = artifacts.find(ARTIFACT_FOLDER, is_deep=True)
    _check_published(store, listed)
    wanted = [file for file in listed if not _is_here(file, directory)]
    fetched: dict[Artifact, Path]
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".download-") as temporary:
        fetched = dict(zip(wanted, artifacts.fetch(wanted, Path(temporary)), strict=True))
        _check_nothing_is_lost(fetched, directory)
        for path in [_place(file, directory) for file in wanted]:
            if is_link_below(directory, path.parent):
                raise MirrorError(f"{display_path(path.parent)} leads through a symbolic link, which is not followed")
        for file, path in fetched.items():
            _place(file, directory).parent.mkdir(parents=True, exist_ok=True)
            path.replace(_place(file, directory))
    return Downloaded(store.run_id, directory, sorted(_place(file, directory) for file in listed))


def _check_published(store: MlflowRun, listed: Iterable[Artifact]) -> None:
    """Refuse a run of which nothing was published, unless it still trains and has logged something."""
    paths = {file.path for file in listed}
    if f"{ARTIFACT_FOLDER}/{REPORT_NAME}" in paths or (paths and store.info()["status"] == "RUNNING"):
        return
    raise HistoryError(f"run {store.run_id} has nothing published; publish it with: mlflow-ddpm publish {store.run_id}")


def _place(file: Artifact, directory: Path) -> Path:
    return directory / file.path.removeprefix(f"{ARTIFACT_FOLDER}/")


def _is_here(file: Artifact, directory: Path) -> bool:
    """Return whether a picture of this name and size is here: pictures of an epoch do not change."""
    path = _place(file, directory)
    if path.suffix != ".png" or path.parent == directory or is_link_below(directory, path):
        return False
    return path.is_file() and path.stat().st_size == file.size


def _check_nothing_is_lost(fetched: dict[Artifact, Path], directory: Path) -> None:
    """Refuse to put fetched rows in place of a fuller copy."""
    data = [path for file, path in fetched.items() if file.path in _DATA]
    lost = epochs_missing_from(load_history(data[0].parent).rows, directory) if data else 0
    if lost:
        raise UsageError(
            f"{display_path(directory)} has {count_of(lost, 'row')} that were not published; publish the run again, "
            "or choose another directory"
        )
