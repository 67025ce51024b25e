"""Checkpoints: one file an epoch, written whole or not at all, the newest good one read back.

Only tensors and plain values are stored, so that reading a checkpoint runs no code (``weights_only``).
"""

import logging
import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mlflow_ddpm.core.atomic_file import flush_directory
from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.storage.layout import CHECKPOINT_PATTERN, checkpoint_name

logger = logging.getLogger("mlflow_ddpm")

_KEPT = 2  # the newest, and one before it should the newest prove damaged
# What zipfile and torch.load raise for an empty, cut, overwritten or foreign file; found by damaging files.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Checkpoint(NamedTuple):
    """What was read, and from where."""

    epoch: int  # the last epoch that the state contains
    state: dict[str, Any]
    path: Path


def checkpoint_paths(directory: Path) -> list[Path]:
    """Return the folder's checkpoints, oldest epoch first; empty if there is no such folder."""
    paths = [path for path in directory.glob("*.pt") if CHECKPOINT_PATTERN.fullmatch(path.name)]
    return sorted(paths, key=_epoch_of)


def save_checkpoint(directory: Path, epoch: int, state: Mapping[str, Any]) -> Path:
    """Write the state after ``epoch`` and return the file's path.

    The file appears under its name only when it is whole and on disk, so that a kill or a power cut at any moment
    leaves the previous one untouched. Then all but the two newest up to ``epoch`` are deleted, and later ones, from
    before the run was continued at an earlier epoch.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / checkpoint_name(epoch)
    unfinished = path.with_suffix(".pt.tmp")
    with unfinished.open("wb") as file:
        torch.save({"epoch": epoch, "state": dict(state)}, file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    flush_directory(directory)
    paths = checkpoint_paths(directory)
    current = [other for other in paths if _epoch_of(other) <= epoch]
    for other in set(paths) - set(current[-_KEPT:]):
        other.unlink()
    return path


def load_newest(directory: Path, *, map_location: torch.device | str = "cpu") -> Checkpoint | None:
    """Return the newest checkpoint that can be read, None without one; raise MirrorError if none can be read."""
    paths = checkpoint_paths(directory)
    for path in reversed(paths):
        try:
            return _load(path, map_location)
        except _DAMAGED as damage:
            logger.warning("Checkpoint %s cannot be read (%s); trying the one before it", path, type(damage).__name__)
    if paths:
        raise MirrorError(
            f"expected a readable checkpoint in {directory}, but all {len(paths)} are damaged; "
            "delete that folder to train from the first epoch again"
        )
    return None


def _load(path: Path, map_location: torch.device | str) -> Checkpoint:
    """Read one checkpoint. torch checks no sums, so a flipped bit would pass as a weight; zipfile checks them."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)
    loaded = torch.load(path, map_location=map_location, weights_only=True)
    return Checkpoint(loaded["epoch"], loaded["state"], path)


def _epoch_of(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])
