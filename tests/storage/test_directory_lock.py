"""One writer a directory, whoever looks at it, wherever it lies, however the writer ended."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.storage.directory_lock import DirectoryLock, check_writable, is_locked
from mlflow_ddpm.storage.layout import HOLDER_NAME, LOCK_NAME

HOLD = """
import sys
from pathlib import Path
from mlflow_ddpm.storage.directory_lock import DirectoryLock
lock = DirectoryLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
{then}
"""


@contextmanager
def _other_writer(directory: Path, then: str = "sys.stdin.read()") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD.format(then=then), str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_live_writer_is_seen_and_its_end_too(tmp_path: Path) -> None:
    """Killed, it leaves both files behind, and neither keeps the next one out."""
    with _other_writer(tmp_path) as other:
        assert is_locked(tmp_path)
        with pytest.raises(UsageError, match=f"process {other.pid} on {socket.gethostname()}"):
            DirectoryLock(tmp_path).acquire()
        other.kill()
        other.wait()

        assert (tmp_path / HOLDER_NAME).exists()
        assert not is_locked(tmp_path)
        DirectoryLock(tmp_path).acquire().release()
    assert not (tmp_path / HOLDER_NAME).exists()


def test_this_process_is_named_as_the_writer_and_the_remedy_is_close(tmp_path: Path) -> None:
    """By another spelling of the same path as well."""
    lock = DirectoryLock(tmp_path).acquire()
    (tmp_path.parent / "link").symlink_to(tmp_path)

    for path in (tmp_path, tmp_path / ".." / tmp_path.name, tmp_path.parent / "link"):
        assert is_locked(path)
        with pytest.raises(UsageError, match=r"this same process .* call tracker\.close\(\)"):
            DirectoryLock(path).acquire()
    lock.release()
    assert not is_locked(tmp_path)
    DirectoryLock(tmp_path).acquire().release()


def test_a_lock_is_released_on_another_thread(tmp_path: Path) -> None:
    """Trackers are closed in threads of notebooks and servers."""
    lock = DirectoryLock(tmp_path).acquire()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()

    with _other_writer(tmp_path):
        pass


def test_looking_at_a_directory_never_keeps_a_training_from_starting(tmp_path: Path) -> None:
    """A tight loop of looks, as of a watching status, and forty starts beside it."""
    looks = threading.Event()
    code = f"""
from pathlib import Path
from mlflow_ddpm.storage.directory_lock import is_locked
print("looking", flush=True)
while True:
    is_locked(Path({str(tmp_path)!r}))
"""
    (tmp_path / LOCK_NAME).touch()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        for _ in range(40):
            DirectoryLock(tmp_path).acquire().release()
        watcher.kill()
    assert not looks.is_set()


@pytest.mark.parametrize("parent_dies", ["killed", "ended"])
def test_a_forked_child_keeps_no_hold(parent_dies: str, tmp_path: Path) -> None:
    """A data loader's worker that outlives its training does not keep the next one out."""
    then = "import os, time\nif os.fork() == 0: print(os.getpid(), flush=True); os.close(1); time.sleep(60)\n"
    then += "sys.stdin.read()" if parent_dies == "killed" else "time.sleep(1); os._exit(0)"
    with _other_writer(tmp_path, then) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        if parent_dies == "killed":
            parent.kill()
        parent.wait()
        try:
            assert not is_locked(tmp_path)
            DirectoryLock(tmp_path).acquire().release()
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_lets_go_changes_nothing(tmp_path: Path) -> None:
    """The parent's lock and its name stay."""
    lock = DirectoryLock(tmp_path).acquire()
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)

    assert json.loads((tmp_path / HOLDER_NAME).read_text())["pid"] == os.getpid()
    command = [sys.executable, "-c", HOLD.format(then=""), str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "is being written by process" in done.stderr
    lock.release()


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO, errno.EPERM])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, as some network file systems are."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_without_locks_a_live_writer_of_this_host_is_refused(
    no_locks: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name is read; a dead one's is taken over, and a warning says what is not guarded."""
    with _other_writer(tmp_path) as other:
        with pytest.raises(UsageError, match=f"being written by process {other.pid}"):
            DirectoryLock(tmp_path).acquire()
        other.kill()
        other.wait()
    lock = DirectoryLock(tmp_path).acquire()

    assert is_locked(tmp_path)
    assert "cannot be locked" in caplog.text
    assert "may be writing now" not in caplog.text
    assert json.loads((tmp_path / HOLDER_NAME).read_text())["pid"] == os.getpid()
    with pytest.raises(UsageError, match="this same process"):
        DirectoryLock(tmp_path).acquire()
    lock.release()
    assert not (tmp_path / HOLDER_NAME).exists()


def test_without_locks_a_writer_on_another_host_is_named(
    no_locks: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can tell here whether it lives: a warning, not a refusal."""
    (tmp_path / HOLDER_NAME).write_text(json.dumps({"pid": 7, "host": "elsewhere", "started": "1"}))
    DirectoryLock(tmp_path).acquire().release()

    assert "process 7 on elsewhere may be writing now" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1e400, "host": 2}', "[" * 10**5])
def test_a_holder_file_that_is_nonsense_is_no_holder(content: str, tmp_path: Path) -> None:
    """Neither a refusal nor a traceback."""
    (tmp_path / HOLDER_NAME).write_text(content)

    assert not is_locked(tmp_path)
    DirectoryLock(tmp_path).acquire().release()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_holder_that_is_no_plain_file_is_no_holder(make: Callable[[Path], None], tmp_path: Path) -> None:
    """A pipe would be waited for, and a device read, for ever."""
    make(tmp_path / HOLDER_NAME)

    assert not is_locked(tmp_path)
    DirectoryLock(tmp_path).acquire().release()


def test_a_process_number_that_is_used_again_is_no_writer(tmp_path: Path) -> None:
    """The time at which the process began tells them apart."""
    (tmp_path / HOLDER_NAME).write_text(json.dumps({"pid": os.getppid(), "host": socket.gethostname(), "started": "1"}))

    assert not is_locked(tmp_path)


@pytest.mark.parametrize("path", ["/proc/nope", "/proc/nope/deep", "/dev/null/x", "x" * 300])
def test_a_directory_that_cannot_be_made_is_refused_at_once(path: str) -> None:
    """One line that names it, from the tracker as from the command."""
    for attempt in (DirectoryLock(Path(path)).acquire, partial(check_writable, Path(path))):
        with pytest.raises(UsageError, match="choose another"):
            attempt()
