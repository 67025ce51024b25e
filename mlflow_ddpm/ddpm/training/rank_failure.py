"""Ends the run as FAILED, within seconds, when another process of this machine dies.

A process that waits for a dead one in a collective runs no signal handler: a thread hears torchrun's SIGTERM instead.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from mlflow_ddpm.core.errors import PeerLostError
from mlflow_ddpm.ddpm.training.distributed import Processes

_POLL_SEC, _GRACE_SEC, _DYING_SEC = 0.5, 5.0, 1.0  # between looks; for training to end by itself; for a peer to be gone


@contextlib.contextmanager
def detect_rank_failure(procs: Processes, end_run: Callable[[PeerLostError | None], object]) -> Iterator[None]:
    """Raise PeerLostError for what leaves the body if a peer died; if nothing leaves it, a thread calls ``end_run``."""
    machine = (socket.gethostname(), Path("/proc/self/ns/pid").resolve().name)  # containers may share the host's name
    peers = enumerate(procs.gather((machine, os.getpid())))
    pids = {rank: pid for rank, (where, pid) in peers if where == machine and rank != procs.rank}
    is_watcher = procs.is_first and procs.world_size > 1 and threading.current_thread() is threading.main_thread()
    monitor = _RankMonitor(pids, end_run) if is_watcher else None
    with contextlib.closing(monitor) if monitor else contextlib.nullcontext():
        try:
            yield
            procs.gather(None)  # rank 0 leaves last: until then, a process that is gone has died
        except BaseException as error:
            if lost := monitor and monitor.take_over(error):
                raise lost from error
            raise


class _RankMonitor:
    def __init__(self, pids: dict[int, int], end_run: Callable[[PeerLostError | None], object]) -> None:
        self._pids, self._end_run, self._ending = pids, end_run, threading.Lock()  # whoever ends the run keeps the lock
        self._reader, self._writer = socket.socketpair()  # Python writes the numbers of signals to it
        self._writer.setblocking(False)
        self._reader.settimeout(_POLL_SEC)
        self._previous_fd = signal.set_wakeup_fd(self._writer.fileno())
        threading.Thread(target=self._watch, name="mlflow_ddpm-ranks", daemon=True).start()

    def close(self) -> None:
        self._ending.acquire(blocking=False)
        signal.set_wakeup_fd(self._previous_fd)
        self._writer.close()  # ends the thread

    def take_over(self, error: BaseException) -> PeerLostError | None:
        self._ending.acquire()  # this thread ends the run, undisturbed by the launcher's SIGTERM
        for _ in range(2):
            with contextlib.suppress(SystemExit):  # a SIGTERM may arrive before it is ignored
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if isinstance(error, SystemExit):  # SIGTERM: the launcher has reaped what died by itself, the others are ending
            return self._lost("gone")
        time.sleep(_DYING_SEC)
        return self._lost("gone", "ended")

    def _lost(self, *states: str) -> PeerLostError | None:
        ranks = ", ".join(str(rank) for rank, pid in self._pids.items() if _process_state(pid) in states)
        return PeerLostError(f"rank {ranks} died: see its own output; then run the same command") if ranks else None

    def _watch(self) -> None:
        heard, lost = b"-", None
        while heard and bytes([signal.SIGTERM]) not in heard and not lost:
            with contextlib.suppress(TimeoutError):
                heard = self._reader.recv(64)  # empty: closed
            lost = self._lost("gone", "ended")
        time.sleep(_GRACE_SEC if heard else 0)
        if heard and self._ending.acquire(blocking=False):
            try:
                self._end_run(lost)
            finally:
                os._exit(1 if lost else 128 + signal.SIGTERM)


def _process_state(pid: int) -> str:
    with contextlib.suppress(PermissionError, FileNotFoundError):  # another user's process; a system without /proc
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return "ended"  # its parent has not yet read its exit status
        except ProcessLookupError:
            return "gone"
    return "running"
