"""Writing a file so that a reader, or a crash, finds the old content or the new, never something between."""

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path

_numbers = itertools.count()


def replace_file(path: Path, content: bytes, *, keep_as: Path | None = None) -> os.stat_result:
    """Write ``content`` under a temporary name beside ``path``, flush it to the disk, then take the name over.

    With ``keep_as``, what had the name before gets that one: a file keeps its own name until the new one has it.
    Returns the status of the new file, since what has the name afterwards may be another program's already. Raises
    OSError where the disk is full, read-only or gone; ``path`` is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}.tmp")
    # Not tempfile's: it makes files private, and the umask by which to undo that can only be read by changing it for
    # every thread.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            status = os.fstat(file.fileno())
        if keep_as is not None:
            _keep(path, keep_as)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)
    return status


def _keep(path: Path, keep_as: Path) -> None:
    if path.is_file() and not path.is_symlink():
        with contextlib.suppress(OSError, NotImplementedError):  # not every file system has hard links
            os.link(path, keep_as)
            return
    path.rename(keep_as)


def remove_remains(directory: Path, names: Sequence[str]) -> None:
    """Remove the temporary files that a killed :func:`replace_file` left of these names."""
    with contextlib.suppress(OSError):
        for name in names:
            for path in directory.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)


def flush_directory(directory: Path) -> None:
    """Make new names in it durable, where the file system can do that: some network file systems refuse it."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            handle = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
