"""Reading files that a stranger may have made: plain files only, no links, and no more memory than they are worth."""

import os
import stat
from pathlib import Path

from mlflow_ddpm.core.errors import MirrorError

MAX_COLUMNS = 10_000
_MAX_BYTES = 256 * 2**20
_MAX_CELLS = 10_000_000  # about 1 GB as rows of Python numbers
_MAX_DEPTH = 50  # of nested JSON: Python's own code that walks it recurses


def own_file(directory: Path, name: str) -> Path | None:
    """Return a file of a directory, None if it has none; raise MirrorError for a link: it may lead anywhere."""
    path = directory / name
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(mode):
        kind = "a symbolic link, which is not followed" if stat.S_ISLNK(mode) else "no plain file"
        raise MirrorError(f"{path} is {kind}; expected a file of the run itself, put a copy in its place")
    return path


def is_link_below(directory: Path, path: Path) -> bool:
    """Return whether a path, or a folder of it below ``directory``, is a symbolic link."""
    parts = path.relative_to(directory).parts
    return any(directory.joinpath(*parts[: i + 1]).is_symlink() for i in range(len(parts)))


def read_bounded(path: Path) -> bytes:
    """Return a file's bytes; raise OSError where it cannot be read.

    Raises MirrorError for no plain file (a pipe, a device, a folder), and for more than any file of a run has.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise MirrorError(f"{path} is no plain file; move it away")
    without_waiting = getattr(os, "O_NONBLOCK", 0)  # for the other end of a pipe
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | without_waiting)) as file:
        content = file.read(_MAX_BYTES + 1)  # it may grow meanwhile
    if len(content) > _MAX_BYTES:
        raise MirrorError(f"{path} has more than {_MAX_BYTES >> 20} MiB; expected a file of training metrics")
    return content


def check_amount(content: bytes, name: str) -> None:
    """Raise MirrorError for CSV or JSON text of more cells than memory is given for, before it is parsed."""
    cells = content.count(b",") + content.count(b"\n") + content.count(b"[") + content.count(b"{")
    if cells > _MAX_CELLS:
        raise MirrorError(f"{name} has {cells:,} cells; at most {_MAX_CELLS:,} are read")


def check_depth(value: object, name: str) -> None:
    """Raise MirrorError for JSON that is nested too deeply."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            item
            for part in level
            if isinstance(part, dict | list)
            for item in (part.values() if isinstance(part, dict) else part)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise MirrorError(f"{name} is nested more than {_MAX_DEPTH} levels deep; expected a training_metrics.json")
