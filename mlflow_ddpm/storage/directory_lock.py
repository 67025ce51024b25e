"""One writer to an output directory. The system releases the lock when the process dies, however it dies.

Beside the lock lies a small file that names the writer's process and host: for messages, for readers, who must not take
the lock, and for file systems that have no locks, where this file is the only sign of another writer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import MirrorError, UsageError
from mlflow_ddpm.core.formatting import display_path
from mlflow_ddpm.storage.foreign_files import read_bounded
from mlflow_ddpm.storage.layout import HOLDER_NAME, LOCK_NAME

if TYPE_CHECKING:
    from filelock import BaseFileLock

_log = logging.getLogger("mlflow_ddpm")
_PATIENCE_SEC = 1.0  # is_locked may hold the lock for some microseconds; a writer tries again before it gives up
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_BROKEN_LOCKS = {errno.EIO, errno.EPERM, errno.EBADF, errno.ENOTTY}
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EINTR}
_open_here: dict[str, DirectoryLock] = {}  # directories that are being written; a fork copies this table


class DirectoryLock:
    """Makes this process the only writer of a directory, from :meth:`acquire` to :meth:`release`."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._key, self._pid = directory, os.path.realpath(directory), os.getpid()
        self._lock: BaseFileLock | None = None
        self._name = os.path.join(directory, LOCK_NAME)  # noqa: PTH118 - each row comes here: os.stat of a Path is slow
        self._status: os.stat_result | None = None  # of the file that is locked
        self._is_taken = False

    def acquire(self) -> Self:
        """Lock the directory, which is created if it is missing.

        Raises:
            UsageError: another live process writes there, or this one does already, or the path is not a directory.
        """
        if _is_open_here(self._key):
            raise UsageError(
                f"{display_path(self._directory)} is being written by an earlier MetricsTracker of this same process "
                "(a notebook cell that ran twice?); call tracker.close() on that one first, or choose another "
                "output_dir"
            )
        try:
            _open_here[self._key] = self
            self._acquire(self._directory)
            self._is_taken = True
            self._name_holder()
        except BaseException:  # an interrupt as well: the caller does not have this lock yet
            self.release()
            raise
        return self

    def _acquire(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = _take_lock(directory, _PATIENCE_SEC)
            self._status = _status_of(self._lock)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(
                f"output_dir must be a directory, but {error.filename} is a file; choose another"
            ) from error
        except OSError as error:  # no room, no right to write, or a file system without locks
            is_there = os.path.isdir(directory)  # noqa: PTH112 - Path.is_dir raises where the name is too long
            if not is_there and error.errno not in _PASSING:
                raise UsageError(
                    f"output_dir {display_path(directory)} cannot be made ({error.strerror}); choose another"
                ) from error
            self._check_holder(error)

    @property
    def is_held(self) -> bool:
        """Whether the lock file of the directory is the one that this process has locked."""
        if self._status is None or os.getpid() != self._pid:
            return False
        try:
            return os.path.samestat(os.stat(self._name), self._status)  # noqa: PTH116 - as above
        except OSError:
            return False

    @property
    def may_write(self) -> bool:
        """Whether no other process can be writing: the lock is held, or there is no lock to hold."""
        return self._lock is None or self.is_held

    def renew(self) -> None:
        """Lock the directory of that name again, after a program moved or deleted the locked one, or raise OSError."""
        if self.is_held:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            lock = _take_lock(self._directory, 0)
        except UsageError as error:
            raise OSError(errno.EBUSY, str(error)) from error
        except OSError:
            if self._lock is None:  # a directory that could not be locked before, either
                return
            raise
        if self._lock is not None:
            self._lock.release(force=True)
        self._lock, self._status = lock, _status_of(lock)
        self._name_holder()

    def rename(self, target: Path) -> None:
        """Give the directory another name while no other process can write to it, and let it go; or raise OSError."""
        (self._directory / HOLDER_NAME).unlink(missing_ok=True)
        if os.name == "nt" and self._lock is not None:  # Windows moves no directory that has an open file
            self._lock.release(force=True)
        self._directory.resolve().rename(target)
        self.release()

    def release(self) -> None:
        """Let the directory go. A forked child, which is not the writer, changes nothing."""
        if os.getpid() != self._pid or _open_here.get(self._key) is not self:
            return
        if self._is_taken and self.may_write:
            with contextlib.suppress(OSError):
                (self._directory / HOLDER_NAME).unlink(missing_ok=True)
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.release(force=True)
        self._status = None
        _open_here.pop(self._key, None)

    def _name_holder(self) -> None:
        with contextlib.suppress(OSError):
            holder = _Holder(os.getpid(), socket.gethostname(), _start_of(os.getpid()))
            replace_file(self._directory / HOLDER_NAME, json.dumps(holder._asdict()).encode())

    def _check_holder(self, error: OSError) -> None:
        """Refuse a directory that cannot be locked if a live process is named there; warn where one may be unseen."""
        holder = _read_holder(self._directory)
        if holder and holder.is_live_here():
            raise _in_use(self._directory) from error
        elsewhere = holder if holder and holder.host != socket.gethostname() else None
        if error.errno in _NO_LOCKS | _BROKEN_LOCKS or elsewhere:
            _log.warning(
                "%s cannot be locked (%s), so two trainings that write there at once are not always noticed%s; give "
                "each training its own output_dir",
                display_path(self._directory),
                error.strerror,
                f": process {elsewhere.pid} on {elsewhere.host} may be writing now" if elsewhere else "",
            )


def _status_of(lock: BaseFileLock) -> os.stat_result | None:
    descriptor = lock._context.lock_file_fd  # noqa: SLF001 - filelock shows it nowhere
    return None if descriptor is None else os.fstat(descriptor)


def is_locked(directory: Path) -> bool:
    """Return whether a live process writes to the directory. A training that starts meanwhile is not disturbed."""
    holder = _read_holder(directory)
    if _is_open_here(os.path.realpath(directory)):
        return True
    if holder and holder.is_live_here():
        return True
    if not (directory / LOCK_NAME).exists():
        return False
    try:
        _take_lock(directory, 0).release(force=True)
    except UsageError:
        return True
    except OSError:  # no right to open the lock's file, or no locks: the holder's file is all there is
        return False
    return False


def check_writable(directory: Path) -> None:
    """Make the directory; raise UsageError where no file can be made, unless it is a fault that passes: a full disk."""
    probe = directory / f".{os.getpid()}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        if error.errno not in _PASSING:
            message = f"{display_path(directory)} cannot be written ({error.strerror}); choose another output directory"
            raise UsageError(message) from error


def _is_open_here(key: str) -> bool:
    lock = _open_here.get(key)
    return lock is not None and lock._pid == os.getpid()  # noqa: SLF001 - of the same class


class _Holder(NamedTuple):
    pid: int
    host: str
    started: str  # when the process began; numbers of processes are used again

    def is_live_here(self) -> bool:
        """Return whether it is another process of this host, and alive."""
        is_other = self.host == socket.gethostname() and self.pid != os.getpid()
        return is_other and bool(self.started) and _start_of(self.pid) == self.started


def _take_lock(directory: Path, timeout: float) -> BaseFileLock:
    """Take the lock. It belongs to the process, not to the thread: trackers are closed on other threads, too."""
    from filelock import FileLock, Timeout

    # A "soft" lock, filelock's stand-in where there are no locks, would outlive a process that is killed.
    lock = FileLock(
        directory / LOCK_NAME, timeout=timeout, thread_local=False, poll_interval=0.02, fallback_to_soft=False
    )
    try:
        lock.acquire()
        return lock  # noqa: TRY300 - in here, so that an interrupt lets it go
    except Timeout:
        raise _in_use(directory) from None
    except NotImplementedError as error:
        raise OSError(errno.ENOSYS, str(error)) from error
    except BaseException:
        lock.release(force=True)
        raise


def _in_use(directory: Path) -> UsageError:
    holder = _read_holder(directory)
    name = f"process {holder.pid} on {holder.host}" if holder else "another process"
    return UsageError(
        f"{display_path(directory)} is being written by {name}; choose another output_dir, or wait until it has ended"
    )


def _read_holder(directory: Path) -> _Holder | None:
    try:
        saved = json.loads(read_bounded(directory / HOLDER_NAME))  # which waits for no pipe
        return _Holder(int(saved["pid"]), str(saved["host"]), str(saved.get("started", "")))
    except (MirrorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None


def _start_of(pid: int) -> str:
    """Return when a process of this host began, in the system's units; "" if it cannot be seen."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    return "" if fields[0] in "ZX" else fields[19]  # a zombie is dead
