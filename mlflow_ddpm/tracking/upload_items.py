"""What an uploader is given to send."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.images import LoggedImage
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER
from mlflow_ddpm.storage.stored_rows import Point


class Tags(NamedTuple):
    """Tags that became known while the run runs."""

    tags: Mapping[str, str]


class Artifact(NamedTuple):
    """A file, and the folder of the run's artifacts it goes to."""

    path: Path
    folder: str


UploadItem = EpochMetrics | Tags | LoggedImage | Artifact


def folder_of(path: Path, directory: Path) -> str:
    """Return where a file is logged: one in a folder of the output directory keeps that folder."""
    here, parent = directory.absolute(), path.absolute().parent
    below = parent.relative_to(here) if parent.is_relative_to(here) else Path()
    return (Path(ARTIFACT_FOLDER) / below).as_posix()


def metric_name(point: Point) -> str:
    """Return the name of a point in the delivery state."""
    return f"metric {point.key}, epoch {point.step}"
