"""Where a training writes when nobody says where."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from mlflow_ddpm import ranks
from mlflow_ddpm.cursor import Cursor
from mlflow_ddpm.ddpm.config import Config
from mlflow_ddpm.errors import UsageError
from mlflow_ddpm.mirror import is_held
from mlflow_ddpm.snapshot import JSON_NAME, read_snapshot
from mlflow_ddpm.strictjson import plain

__all__ = ["choose_output_dir"]


def choose_output_dir(config: Config, below: Path = Path("runs")) -> Path:
    """Return ``runs/DATA``, or the first of ``runs/DATA-2``, ... that is free or can be gone on with.

    The same settings again go on with an unfinished run; everything else gets a directory of its own, so that nothing
    is overwritten. ``mlflow run`` always makes a new run, and so a new directory.

    Raises:
        UsageError: several processes train together; they could not agree on a name.
    """
    if ranks.world_size() > 1:
        raise UsageError("several processes train together; name the directory they share with --output-dir DIR")
    names = itertools.chain([config.data.name], (f"{config.data.name}-{n}" for n in itertools.count(2)))
    return next(below / name for name in names if _is_usable(below / name, config))


def _is_usable(directory: Path, config: Config) -> bool:
    if not directory.exists() or not any(directory.iterdir()):
        return True
    if is_held(directory) or os.environ.get("MLFLOW_RUN_ID") or not (directory / JSON_NAME).exists():
        return False
    cursor = Cursor.load(directory)
    told = read_snapshot(directory / JSON_NAME).config
    same = all(told.get(group, {}).get(k) == v for group, s in plain(config.as_dict()).items() for k, v in s.items())
    return cursor is not None and cursor.status != "FINISHED" and same
