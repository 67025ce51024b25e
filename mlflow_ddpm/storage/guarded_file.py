"""A file that other programs may replace, edit, move or delete while we write it.

Editors, spreadsheets, rsync and ``sed -i`` save by renaming a new file over the old one, and a handle that is still
open then writes to a file that has no name. So before each write the name is compared with what we left there, and a
version that another program wrote with other data than ours is kept beside ours, never overwritten.
"""

import errno
import itertools
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.formatting import display_path
from mlflow_ddpm.storage.layout import edited_name

_log = logging.getLogger("mlflow_ddpm")
_FOREIGN_SIZE_MAX = 1 << 26  # bytes beyond our own content up to which a foreign version is read and compared


class FileState(NamedTuple):
    """What identifies a version of a file, cheaply."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def create(cls, status: os.stat_result) -> Self:
        """Take it from ``os.stat`` or ``os.fstat``."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class GuardedFile:
    """The file ``path``, and in which state we left it."""

    def __init__(self, path: Path) -> None:
        self.path, self._name = path, os.fspath(path)
        self.state: FileState | None = None  # None: not written yet, or written in part

    def is_ours(self) -> bool:
        """Return whether the file of that name is the one that we left, unchanged; may raise OSError."""
        return self.state is not None and self.current_state() == self.state

    def adopt(self) -> None:
        """Take the file as it is now for ours."""
        self.state = self.current_state()

    def replace(self, content: bytes, holds_only_ours: Callable[[bytes], bool]) -> None:
        """Replace the whole file, and keep a foreign version beside it unless it ``holds_only_ours``.

        Raises OSError where the disk is full, read-only or gone; the file is then untouched.
        """
        keep_as, current = None, self.current_state()
        if current != self.state:
            keep_as = self._name_for_foreign(content, holds_only_ours)
        written = FileState.create(replace_file(self.path, content, keep_as=keep_as))
        if self.state is not None and current is None:
            _log.warning("%s was gone; it has been written again, with everything it held", display_path(self.path))
        elif keep_as:
            _log.warning(
                "another program changed %s; it has been written again from memory, the changed version is kept in %s",
                display_path(self.path),
                display_path(keep_as),
            )
        after = self.current_state()
        is_same = after is not None and after[:3] == written[:3]  # a network file system may set the time at the close
        self.state = after if is_same else written

    def _name_for_foreign(self, content: bytes, holds_only_ours: Callable[[bytes], bool]) -> Path | None:
        """Return the name under which to keep what now has ours; None if nothing in it would be lost."""
        if not self.path.exists():  # nothing, or a link to nothing
            return None
        status = self.path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size <= len(content) + _FOREIGN_SIZE_MAX:
            found = self.path.read_bytes()
            if content.startswith(found) or holds_only_ours(found):
                return None
        names = (self.path.with_name(edited_name(self.path, number)) for number in itertools.count(1))
        return next(name for name in names if not os.path.lexists(name))

    def current_state(self) -> FileState | None:
        """Return the state of what has the name now; None if nothing has it."""
        try:
            return FileState.create(os.stat(self._name))  # noqa: PTH116 - each row comes here
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            return None  # a link to itself: nothing is behind that name, either
