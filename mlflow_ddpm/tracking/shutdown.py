"""Detect how a training ends: by itself, by an exception, or by a signal; and report the outcome.

A signal counts only if it ended the training: an ignored one, and one whose exception the loop catches, change nothing.
Two ends show no exception: of a generator that is closed, and of a child process of ``multiprocessing``. There one that
a signal's handler raised since the last epoch began counts.
A handler of the user's that returns changes nothing, with one exception: after SIGTERM, the request to leave, a
loop that is left within one epoch more was left for it, as by a batch system's job that saves and goes.
SIGKILL cannot be handled; resume the run instead.
"""

import _thread
import atexit
import inspect
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.util import Finalize
from traceback import walk_stack, walk_tb
from types import FrameType
from typing import Any

from mlflow_ddpm.core.errors import PeerLostError, error_chain
from mlflow_ddpm.core.run_summary import RunOutcome

_log = logging.getLogger("mlflow_ddpm")
# SIGHUP: the terminal is gone. Windows does not have it.
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
_NO_ERRORS = (StopIteration, StopAsyncIteration)  # they end loops, not trainings
_INTERRUPTS_MAX = 100  # within seconds, of a timer at worst
_EPOCHS_TO_LEAVE = 1  # that begin before a loop looks at the flag which a handler has set
_DELETED = object()  # in place of an argument of a handler


def classify_exit(error: BaseException | None, signum: int | None = None) -> RunOutcome:
    """Return how a training ended that left with ``error``; ``signum``: the signal that ended it, if one did."""
    if signum is not None and not isinstance(error, PeerLostError):  # after a death the launcher signals the others
        return RunOutcome("KILLED", signal.Signals(signum).name)
    if isinstance(error, KeyboardInterrupt):
        return RunOutcome("KILLED", "KeyboardInterrupt")
    is_pruned = type(error).__name__ == "TrialPruned"  # Optuna's: the next trial is another run
    if error is None or is_pruned or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return RunOutcome("FINISHED")
    if isinstance(error, SystemExit) and isinstance(error.code, int) and isinstance(error.__context__, Exception):
        error = error.__context__  # why sys.exit(1) was called
    try:
        return RunOutcome("FAILED", type(error).__name__, str(error))
    except Exception:  # noqa: BLE001 - of a __str__ of the user's
        return RunOutcome("FAILED", type(error).__name__)


def insist(step: Callable[[float], object], seconds: float) -> None:
    """Take a step to its end in some seconds, whatever interrupts it; the first interrupt is raised after it.

    An interrupt is Ctrl-C, or what a signal's handler raises, as a timer's. An error of the step's own is raised at
    once: it would come again.
    """
    deadline, interrupt = time.monotonic() + seconds, None
    for _ in range(_INTERRUPTS_MAX):
        try:
            step(max(0.0, deadline - time.monotonic()))
            break
        except BaseException as error:  # noqa: BLE001 - raised below
            interrupt = interrupt or error
            if isinstance(error, Exception) and _signal_behind(walk_tb(error.__traceback__)) is None:
                break
    if interrupt:
        raise interrupt


def _signal_behind(frames: Iterable[tuple[FrameType, int]]) -> int | None:
    """Return the signal whose handler, one in Python, runs or raised in these frames, wherever it came from."""
    handlers: list[tuple[int, Any]] = [(signum, signal.getsignal(signum)) for signum in signal.valid_signals()]
    handlers += [(handler.signum, handler.previous) for handler in _installed]
    codes = [(signum, getattr(handler, "__code__", None)) for signum, handler in handlers]
    for frame, _ in frames:
        signums = [signum for signum, code in codes if code is frame.f_code]
        if signums and _is_called_by_signal(frame):
            numbers = [value for value in _arguments(frame) if isinstance(value, int)]
            return next((signum for signum in signums if signum in numbers), signums[0])
    return None


def _is_called_by_signal(handler: FrameType) -> bool:
    """Return whether a signal called a handler, not the user's code, as at the normal end: that passes no frame.

    A handler that has deleted its arguments is taken for one that a signal called.
    """
    return any(value is _DELETED or isinstance(value, FrameType) for value in _arguments(handler))


def _arguments(frame: FrameType) -> list[object]:
    """Return what a function was called with, with ``_DELETED`` in place of what it has deleted since."""
    names, rest, _, values = inspect.getargvalues(frame)
    others = values.get(rest) if rest else ()
    return [*(values.get(name, _DELETED) for name in names), *(others if isinstance(others, tuple) else [_DELETED])]


class ShutdownHandler:
    """Watches for SIGTERM, SIGINT, SIGHUP and the interpreter's exit from :meth:`start` to :meth:`stop`.

    A handler that was there before still runs, and an ignored signal stays ignored. Where there was none, SIGTERM
    raises ``SystemExit(143)`` in the main thread, so that ``finally`` blocks and context managers run; so does SIGHUP.
    Outside the main thread no handler can be installed.
    """

    def __init__(self, at_exit: Callable[[RunOutcome], object]) -> None:
        self._raised: dict[int, BaseException] = {}  # by signal: what its handler raised
        self._survived: dict[int, int] = {}  # by signal whose handler returned: how many epochs began since
        self._at_exit = at_exit
        self._finalizer: Finalize | None = None
        self._pid = os.getpid()

    def start(self, *, with_signals: bool = True) -> None:
        """Watch from now on."""
        self._earlier_error = getattr(sys, "last_value", None)
        self._handled = sys.exc_info()[1]  # what an ``except`` block around the training is about
        if with_signals:
            _watching.append(self)
            _install_handlers()
        atexit.register(self._on_exit)
        if multiprocessing.parent_process():  # such a process ends without atexit, or with its error forgotten by then
            self._finalizer = Finalize(None, self._on_exit, exitpriority=0)

    def stop(self) -> None:
        """Watch no more; the last one to stop puts the handlers back that were there before the first."""
        try:
            self._stop()
        except BaseException:  # an interrupt, by the very handlers that are being put back
            self._stop()
            raise

    def _stop(self) -> None:
        atexit.unregister(self._on_exit)
        if self._finalizer:
            self._finalizer.cancel()
        if self in _watching:
            _watching.remove(self)
        if not _watching:
            _restore_handlers()

    def outcome_of(self, error: BaseException | None) -> RunOutcome:
        """Return how a training ended that left with ``error``.

        A generator that is closed has ended its loop, unless a signal raised something where its values are used.
        """
        if isinstance(error, GeneratorExit):
            error = next(iter(self._raised.values()), None)
        return classify_exit(error, self._ending_signal(error))

    def epoch_begins(self) -> None:
        """Note that the training continues, whatever signals and errors came before."""
        self._handled = sys.exc_info()[1]
        self._survived = {signum: count + 1 for signum, count in self._survived.items()}
        if threading.current_thread() is threading.main_thread():  # where handlers run, and raise
            self._raised = {}

    def outcome_at_close(self, status: str | None, error: BaseException | None) -> RunOutcome:
        """Return how a training ended that is closed with these two.

        Without an error it is the one under way, as in a ``finally`` or ``except`` block, unless an epoch began in it.
        """
        if status == "FINISHED" and error is None:
            return RunOutcome(status)
        under_way = sys.exc_info()[1]
        if error is None and under_way is not self._handled:
            error = None if isinstance(under_way, _NO_ERRORS) else under_way
        outcome = self.outcome_of(error)
        signum = _signal_behind(walk_stack(inspect.currentframe()))
        if error is None and signum in _SIGNALS:  # its handler closes the tracker
            outcome = classify_exit(None, signum)
        return outcome._replace(status=status or outcome.status)

    def note_signal(self, signum: int, error: BaseException | None) -> None:
        """Note that a signal came, and what its handler raised."""
        if error is None:
            self._survived[signum] = 0
        else:
            self._raised[signum] = error

    def _ending_signal(self, error: BaseException | None) -> int | None:
        """Return the signal that ended a training which left with ``error``."""
        chain = list(error_chain(error))
        for link in chain:
            for signum, raised in self._raised.items():
                if link is raised:
                    return signum
        for link in chain:  # a handler that was set later raised it
            behind = _signal_behind(walk_tb(link.__traceback__))
            if behind in _SIGNALS:
                return behind
        return self._signal_left_for(error)

    def _signal_left_for(self, error: BaseException | None) -> int | None:
        """Return the signal whose handler returned, and for which the loop was left with ``error`` soon after."""
        # By Ctrl-C, asyncio cancels the main task; users' handlers do so, too.
        is_cancelled = type(error).__name__ == "CancelledError"
        signums: list[int] = []
        if is_cancelled:
            signums = [signal.SIGINT, signal.SIGTERM]
        elif error is None or isinstance(error, SystemExit):
            signums = [signal.SIGTERM]
        recent = [signum for signum in signums if self._survived.get(signum, math.inf) <= _EPOCHS_TO_LEAVE]
        return recent[0] if recent else None

    def _on_exit(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child, such as a data loader's worker, inherits this; the training is its parent's
        # Python keeps an uncaught exception in sys.last_value, for debuggers; by now it has been printed. At
        # an interactive prompt it is some earlier line's. SystemExit is not kept there.
        error = getattr(sys, "last_value", None)
        if error is self._earlier_error or hasattr(sys, "ps1"):
            error = next((raised for raised in self._raised.values() if isinstance(raised, SystemExit)), None)
        if self._finalizer:  # the error passes this very moment; torch swallows a KeyboardInterrupt
            error = sys.exc_info()[1] or next(iter(self._raised.values()), None)
        self._at_exit(self.outcome_of(error))


class _SignalHandler:
    """Stands before the handler that a signal had, for the trackers that are open."""

    def __init__(self, signum: int, previous: Any) -> None:
        self.signum, self.previous, self._pid = signum, previous, os.getpid()
        self.is_asked_to_leave = False  # by another thread, which cannot set handlers itself

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.is_asked_to_leave:
            self.is_asked_to_leave = False
            if not _watching:
                self.leave()
                _installed[:] = [handler for handler in _installed if handler is not self]
                return
        trackers = list(_watching) if os.getpid() == self._pid else []
        raised: BaseException | None = None
        try:
            self._act(signum, frame, is_watched=bool(trackers))
        except BaseException as error:
            raised = error
            raise
        finally:
            for tracker in trackers:
                tracker.note_signal(signum, raised)

    def _act(self, signum: int, frame: FrameType | None, *, is_watched: bool) -> None:
        if callable(self.previous):
            self.previous(signum, frame)
        elif is_watched:
            raise SystemExit(128 + signum)
        else:  # nothing is left to save: as if this handler were not there
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)

    def leave(self) -> None:
        """Put the earlier handler back, unless another one stands here by now."""
        if self.is_in_place():
            signal.signal(self.signum, self.previous)

    def is_in_place(self) -> bool:
        """Return whether the signal still comes here first."""
        current: object = signal.getsignal(self.signum)
        return current is self


_watching: list[ShutdownHandler] = []  # trackers that are open in this process; they share the handlers
_installed: list[_SignalHandler] = []


def _install_handlers() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    if _installed and len(_watching) > 1:
        return
    _leave_all()  # left from trackers that were closed on another thread
    for signum in _SIGNALS:
        previous = signal.getsignal(signum)
        if previous not in (signal.SIG_IGN, None):  # None: a handler that Python did not set, and cannot put back
            handler = _SignalHandler(signum, previous)
            _installed.append(handler)  # first: an interrupt that comes between leaves none behind
            signal.signal(signum, handler)


def _restore_handlers() -> None:
    if threading.current_thread() is threading.main_thread():
        _leave_all()
        return
    for handler in _installed:  # only the main thread may: it is interrupted, as by the signal itself, to do so
        if handler.is_in_place():
            handler.is_asked_to_leave = True
            _thread.interrupt_main(signal.Signals(handler.signum))


def _leave_all() -> None:
    while _installed:
        _installed[-1].leave()
        _installed.pop()
