"""What an uploader is given to send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.images import LoggedImage
from mlflow_ddpm.storage.mlflow_run import Point

__all__ = ["Artifact", "LivePoints", "Tags", "UploadItem"]


class Tags(NamedTuple):
    """Tags that became known while the run goes on."""

    tags: Mapping[str, str]


class LivePoints(NamedTuple):
    """Points within an epoch: sent when no row waits, dropped when the store is away. They are no rows."""

    points: Sequence[Point]


class Artifact(NamedTuple):
    """A file, and the folder of the run's artifacts it goes to."""

    path: Path
    folder: str


UploadItem = EpochMetrics | Tags | LivePoints | LoggedImage | Artifact
