"""The output directory of a training: its default name, whether it can be used, what an earlier run left there."""

import itertools
import os
from pathlib import Path

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.formatting import display_path
from mlflow_ddpm.core.redaction import redacted
from mlflow_ddpm.core.strict_json import flatten
from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.directory_lock import check_writable, is_locked
from mlflow_ddpm.storage.json_file import read_document
from mlflow_ddpm.storage.layout import JSON_NAME, PUBLISHED_NAME


def choose_output_dir(config: Config) -> Path:
    """Return ``runs/DATA``, or the first of ``runs/DATA-2``, ... that is free or can be continued.

    The same settings again continue a run that was interrupted, while training or while publishing; everything else
    gets a directory of its own, so that nothing is overwritten. ``mlflow run`` always makes a new run, and so a new
    directory.

    Raises:
        UsageError: several processes train together; they could not agree on a name.
    """
    if ranks.world_size() > 1:
        raise UsageError("several processes train together; name the directory they share with --output-dir DIR")
    names = itertools.chain([config.data.name], (f"{config.data.name}-{n}" for n in itertools.count(2)))
    return next(directory for name in names if _is_usable(directory := Path("runs", name), config))


def plan_output_dir(directory: Path, config: Config, *, resume: bool) -> str:
    """Check that a training of these resolved settings can write there; return its path, and what is to be done there.

    Nothing is written, and no checkpoint is read: this comes before a download and before a run is made.

    Raises:
        UsageError: it cannot be used.
    """
    existing = nearest_existing(directory)
    if not existing.is_dir():
        raise UsageError(f"{display_path(existing)} is a file; choose another --output-dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(
            f"{display_path(existing)} cannot be written; make it writable, or choose another --output-dir"
        )
    if not directory.exists():
        return f"{display_path(directory)}, which will be made"
    if is_locked(directory):
        raise UsageError(f"{display_path(directory)} is being written by another process; choose another, or wait")
    if not resume and is_same_finished_run(directory, config):
        if _is_published(directory):
            raise UsageError(
                f"{display_path(directory)} holds the finished run of these settings; choose another --output-dir, or "
                "add epochs to that run with --resume and more --epochs"
            )
        return f"{display_path(directory)}, trained to the end: its plots and report are made"
    _refuse_finished(directory, resume=resume)
    return display_path(directory)


def nearest_existing(path: Path) -> Path:
    """Return the path, or the nearest one above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def is_same_finished_run(directory: Path, config: Config) -> bool:
    """Return whether the directory holds a run of these resolved settings that trained to its end."""
    return _finished_run(directory) is not None and _has_settings(directory, config)


def check_output_dir(directory: Path, *, resume: bool) -> None:
    """Check, before anything is loaded, that a training can write to the directory. It is made if it is missing.

    A training is continued from its checkpoints, so a finished one is not moved aside, as a tracker alone would do.

    Raises:
        UsageError: it cannot, or the directory holds a finished run and ``resume`` is not set.
    """
    _refuse_finished(directory, resume=resume)
    check_writable(directory)


def _refuse_finished(directory: Path, *, resume: bool) -> None:
    if not resume and (run_id := _finished_run(directory)):
        raise UsageError(
            f"{display_path(directory)} holds the finished run {run_id}; choose another output directory, or add "
            "epochs to that run with --resume (resume=True)"
        )


def mark_published(directory: Path) -> None:
    """Record that the post-run step is complete; until then the same command does it again."""
    state = DeliveryState.load(directory)
    if state is not None:
        replace_file(directory / PUBLISHED_NAME, str(state.run_id).encode())


def _is_published(directory: Path) -> bool:
    state, path = DeliveryState.load(directory), directory / PUBLISHED_NAME
    return state is not None and path.is_file() and path.read_text(encoding="utf-8") == str(state.run_id)


def _is_usable(directory: Path, config: Config) -> bool:
    if not directory.exists() or all(path.name.startswith(".") for path in directory.iterdir()):
        return not is_locked(directory)  # hidden files alone: killed before its run had begun
    if is_locked(directory) or os.environ.get("MLFLOW_RUN_ID"):
        return False
    is_complete = _finished_run(directory) is not None and _is_published(directory)
    return not is_complete and _has_settings(directory, config)


def _finished_run(directory: Path) -> str | None:
    """Return the id of the finished run that a directory holds."""
    state = DeliveryState.load(directory) if directory.is_dir() else None
    return str(state.run_id) if state and state.status == "FINISHED" else None


def _has_settings(directory: Path, config: Config) -> bool:
    if DeliveryState.load(directory) is None or not (directory / JSON_NAME).exists():
        return False
    recorded = flatten(read_document(directory / JSON_NAME).config)
    settings = flatten(redacted(config.as_dict()).value)  # as a run's JSON has them
    return settings.items() <= recorded.items()
