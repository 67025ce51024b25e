"""Writing a file so that a reader, or a crash, finds the old content or the new, never something between."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["remove_remains", "replace_file"]


def replace_file(path: Path, content: bytes) -> None:
    """Write ``content`` under a temporary name beside ``path``, flush it to the disk, then take the name over.

    Raises:
        OSError: the disk is full, read-only or gone; ``path`` is untouched.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101 - mkstemp makes it private; others may read a run
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _flush_directory(path.parent)


def remove_remains(directory: Path, names: Sequence[str]) -> None:
    """Remove the temporary files that a killed :func:`replace_file` left of these names."""
    with contextlib.suppress(OSError):
        for name in names:
            for path in directory.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _flush_directory(directory: Path) -> None:
    """Make the new name itself durable, where the system lets a directory be opened."""
    if os.name == "posix":
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
