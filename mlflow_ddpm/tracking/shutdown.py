"""How a training ends: by itself, by an exception, or by a signal; and that somebody is told in every case.

SIGKILL tells nobody; that is what resuming is for.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from mlflow_ddpm.core.errors import PeerLostError
from mlflow_ddpm.core.run_outcome import RunOutcome

__all__ = ["RunOutcome", "ShutdownHandler", "classify_exit"]

_log = logging.getLogger("mlflow_ddpm")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def classify_exit(error: BaseException | None, signum: int | None) -> RunOutcome:
    """Return how a training ended that left with ``error`` after ``signum`` was received; either may be None."""
    if signum is not None and not isinstance(error, PeerLostError):  # after a death the launcher signals the others
        return RunOutcome("KILLED", signal.Signals(signum).name)
    if isinstance(error, KeyboardInterrupt):
        return RunOutcome("KILLED", "KeyboardInterrupt")
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return RunOutcome("FINISHED")
    return RunOutcome("FAILED", type(error).__name__, str(error))


class ShutdownHandler:
    """Watches for SIGTERM, SIGINT and the interpreter's exit from the moment it is made until :meth:`stop`.

    A handler that was there before still runs. Where there was none, SIGTERM raises ``SystemExit(143)`` in the main
    thread, so that ``finally`` blocks and context managers run. Outside the main thread no handler can be installed.
    """

    def __init__(self, at_exit: Callable[[RunOutcome], object]) -> None:
        self.signum: int | None = None
        self._at_exit = at_exit
        self._pid = os.getpid()
        self._earlier_error = getattr(sys, "last_value", None)
        _watching.append(self)
        if len(_watching) == 1:
            _install_handlers()
        atexit.register(self._on_exit)

    def stop(self) -> None:
        """Watch no more; the last one to stop puts the handlers back that were there before the first."""
        atexit.unregister(self._on_exit)
        if self in _watching:
            _watching.remove(self)
        if not _watching:
            _restore_handlers()

    def _on_exit(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child, such as a data loader's worker, inherits this; the training is its parent's
        # Python keeps an exception that nobody caught in sys.last_value, for debuggers; by now it has been printed. At
        # an interactive prompt it is some earlier line's, and the session has gone on since.
        error = getattr(sys, "last_value", None)
        if error is self._earlier_error or hasattr(sys, "ps1"):
            error = None
        self._at_exit(classify_exit(error, self.signum))


_watching: list[ShutdownHandler] = []  # trackers that are open in this process; they share the handlers
_previous: dict[int, Any] = {}


def _install_handlers() -> None:
    if threading.current_thread() is threading.main_thread():
        for signum in _SIGNALS:
            _previous[signum] = signal.signal(signum, _on_signal)


def _restore_handlers() -> None:
    if threading.current_thread() is threading.main_thread():
        for signum in list(_previous):
            previous = _previous.pop(signum)
            if signal.getsignal(signum) is _on_signal:
                signal.signal(signum, previous)


def _on_signal(signum: int, frame: FrameType | None) -> None:
    for endings in _watching:
        endings.signum = signum
    previous = _previous.get(signum)
    if callable(previous):
        previous(signum, frame)
    elif previous != signal.SIG_IGN:
        raise SystemExit(128 + signum)
