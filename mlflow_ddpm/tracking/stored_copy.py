"""MLflow's copy of a run's CSV or JSON beside ours: a fuller one is never overwritten by an emptier one.

A directory may have lost epochs, or be an older copy of another machine's; its run is then continued there, or
synced from there: what MLflow's copy has is restored first. This needs a file of its own since
:mod:`mlflow_ddpm.tracking.remote_run` is large enough.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.artifacts import Artifacts
from mlflow_ddpm.storage.csv_file import read_csv
from mlflow_ddpm.storage.json_file import read_document
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER
from mlflow_ddpm.storage.mlflow_run import MlflowRun


def rows_of_stored_copy(run: MlflowRun, name: str) -> Sequence[EpochMetrics]:
    """Return the rows of the stored file; none if there is no such file, or it is damaged or not ours.

    Raises:
        StoreError: as :class:`mlflow_ddpm.storage.artifacts.Artifacts`.
    """
    artifacts = Artifacts(run)
    with tempfile.TemporaryDirectory() as folder:
        try:
            listed = [file for file in artifacts.find(ARTIFACT_FOLDER) if file.name == name]
            paths = artifacts.fetch(listed, Path(folder))
            if not paths:
                return ()
            return read_document(paths[0]).rows if name.endswith(".json") else read_csv(paths[0])
        except MirrorError:
            return ()
