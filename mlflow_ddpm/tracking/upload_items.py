"""What an uploader is given to send, while a run runs, at its end, and later from its directory."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.core.metrics import EpochMetrics, Point
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.images import LoggedImage, images_on_disk
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, CSV_NAME, JSON_NAME, MODEL_FOLDER, SAMPLES_FOLDER, model_files


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
    return f"metric {point.key}, step {point.step}"


def undelivered(directory: Path, rows: Sequence[EpochMetrics], state: DeliveryState) -> list[UploadItem]:
    """Return what the store has not acknowledged: rows, then pictures and files.

    Files are taken from below the directory alone, whatever its delivery state names: it may be a stranger's.
    """
    again = {name.rpartition(" ")[2] for name in state.set_aside if name.startswith("metric ")}
    waiting = [r for r in rows if r.logged_at_ms > state.delivered_through_ms or str(r.epoch) in again]
    paths = [directory / name for name in dict.fromkeys([*state.artifacts, *state.set_aside]) if name != JSON_NAME]
    files = [Artifact(path, folder_of(path, directory)) for path in paths if _is_below(path, directory)]
    document = Artifact(directory / JSON_NAME, ARTIFACT_FOLDER)  # the config with its types, and the environment
    return [*waiting, document, *images_on_disk(directory, but=state.pictures), *files]


def final_files(directory: Path) -> list[Artifact]:
    """Return the files that are logged when a run has ended: its history, and the trained model if there is one."""
    history = [Artifact(directory / name, ARTIFACT_FOLDER) for name in (CSV_NAME, JSON_NAME)]
    model = [Artifact(path, MODEL_FOLDER) for path in model_files(directory)]
    # Path.exists raises where there is no right to look.
    return [artifact for artifact in (*history, *model) if os.path.exists(artifact.path)]  # noqa: PTH110


def _is_below(path: Path, directory: Path) -> bool:
    """Return whether it is a file of the directory, not a link out of it; pictures have a way of their own."""
    try:
        inside = path.resolve().relative_to(directory.resolve())
        return path.is_file() and inside.parts[0] != SAMPLES_FOLDER
    except (OSError, ValueError, IndexError):
        return False
