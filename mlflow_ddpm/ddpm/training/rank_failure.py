"""What becomes of a run when one of its processes dies: the first process says FAILED, and soon.

A launcher such as torchrun sees the death and sends SIGTERM to the others, as it does when a person ends the job; and a
process that waits for a dead one, in a collective, is deaf to signals. So processes of one machine know each other's
ids, and a thread beside the training listens for what the training cannot hear. Processes on other machines are seen to
die by the error that the collective raises, or at the latest when it times out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from mlflow_ddpm.core.errors import PeerLostError
from mlflow_ddpm.ddpm.training.distributed import Processes

__all__ = ["detect_rank_failure"]

_POLL_SEC = 0.5
_GRACE_SEC = 5.0  # for the training to end by itself
_DYING_SEC = 1.0  # from the loss of a connection until the process that held it is gone

EndRun = Callable[[PeerLostError | None], object]  # None: by a signal


@contextmanager
def detect_rank_failure(procs: Processes, end_run: EndRun) -> Iterator[None]:
    """Turn what leaves the body into :class:`PeerLostError` if another process of this machine has died.

    ``end_run`` is called from another thread, before this process ends at once, if the body does not end by itself.
    """
    if procs.world_size == 1:
        yield
        return
    peers = dict(enumerate(procs.gather((_machine(), os.getpid()))))
    here = {rank: pid for rank, (machine, pid) in peers.items() if machine == _machine() and rank != procs.rank}
    if not procs.is_first:
        yield
        procs.gather(None)  # the first process comes last: until then whoever is gone has died
        return
    with _Listener(here, end_run) as listener:
        try:
            yield
            procs.gather(None)
        except BaseException as error:
            listener.take_over()
            lost = _wait_for_loss(here, error)
            if lost:
                raise _peer_lost(lost) from error
            raise


def _machine() -> tuple[str, str]:
    """Return what two processes share that see each other's ids; containers of one host may bear its name, both."""
    with contextlib.suppress(OSError):
        return socket.gethostname(), str(Path("/proc/self/ns/pid").readlink())
    return socket.gethostname(), ""


def _wait_for_loss(here: dict[int, int], error: BaseException) -> list[int]:
    """Return the ranks that died before this process was stopped by ``error``."""
    if isinstance(error, SystemExit):
        # The launcher has seen the end of what died by itself. If a person stopped the job, the others are ending now.
        return [rank for rank, pid in here.items() if not _exists(pid)]
    deadline = time.monotonic() + _DYING_SEC
    while not (lost := [rank for rank, pid in here.items() if not _is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return lost


def _peer_lost(lost: list[int]) -> PeerLostError:
    return PeerLostError(
        f"rank {', '.join(map(str, lost))} died; its own output says why. The same command goes on from the last "
        "checkpoint"
    )


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_alive(pid: int) -> bool:
    """Say whether it runs: one that has ended exists until its parent asks for its status."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
    return _exists(pid)


class _Listener:
    """Hears SIGTERM and the death of peers while the main thread may not, and ends the run if nobody else does."""

    def __init__(self, peers: dict[int, int], end_run: EndRun) -> None:
        self._peers, self._end_run = peers, end_run
        self._ending = threading.Lock()  # held for ever by whoever ends the run
        self._ours, self._theirs = socket.socketpair()
        self._previous_fd = -1

    def __enter__(self) -> Self:
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._theirs.setblocking(False)
            self._previous_fd = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="mlflow_ddpm-peers", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.acquire(blocking=False)
        if self._is_main:
            signal.set_wakeup_fd(self._previous_fd)
        self._theirs.close()  # the thread reads the end, and goes

    def take_over(self) -> None:
        """End the run on this thread, from here on undisturbed: the launcher will send SIGTERM, or has just done so."""
        self._ending.acquire()
        for _ in range(2):
            with contextlib.suppress(SystemExit):  # one may arrive while it is being ignored
                if self._is_main:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _listen(self) -> None:
        self._ours.settimeout(_POLL_SEC)
        while True:
            signalled = False
            with contextlib.suppress(TimeoutError):
                heard = self._ours.recv(64)
                if not heard:
                    return
                signalled = bytes([signal.SIGTERM]) in heard
            lost = [rank for rank, pid in self._peers.items() if not _is_alive(pid)]
            if signalled or lost:
                self._end_unless_ended(lost)
                return

    def _end_unless_ended(self, lost: list[int]) -> None:
        time.sleep(_GRACE_SEC)
        if self._ending.acquire(blocking=False):
            gone = [rank for rank in lost if not _exists(self._peers[rank])] or lost
            try:
                self._end_run(_peer_lost(gone) if gone else None)
            finally:  # a full disk is no reason to wait for the dead
                os._exit(1 if gone else 128 + signal.SIGTERM)
