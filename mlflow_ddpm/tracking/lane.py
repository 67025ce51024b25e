"""A thread that works while there is work, and tries again at growing intervals while the store is away.

No error ends the thread, not even one of a log handler. A store that refuses (a run deleted in the UI, an expired
token) is asked again only once a minute, since a person may repair it.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from mlflow_ddpm.core.errors import StoreError, StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.tracking.outage import OutageLog

_log = logging.getLogger("mlflow_ddpm")
_PAUSES_SEC = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # between attempts while the store is away
# Share of the time, at most, in which the lane works, and the longest rest that follows from it. While MLflow's client
# computes, a training step that releases the interpreter's lock waits for it: epochs of a fifth of a second would lose
# a third of their speed. Rows of longer epochs than the rest are sent one by one, at once.
_SHARE, _REST_SEC_MAX = 0.005, 10.0
# Work begins when the training thread has written nothing for a moment, so that rows written back to back do not wait
# for the interpreter's lock; at the latest after the longest rest.
_QUIET_SEC = 0.1


class Activity:
    """When the training thread last wrote something; the lanes of one run share it."""

    def __init__(self) -> None:
        self.written_at = time.monotonic()


class Lane:
    """One queue's thread. ``work`` sends what waits and raises a :class:`StoreError` if the store does not take it.

    ``share`` and ``rest_sec_max`` bound the share of the time in which it works, and the rests that follow from it;
    ``quiet_sec_max`` how long it waits for the training thread to be quiet.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        outage: OutageLog,
        activity: Activity,
        *,
        share: float = _SHARE,
        rest_sec_max: float = _REST_SEC_MAX,
        quiet_sec_max: float = _REST_SEC_MAX,
    ) -> None:
        self._work, self._outage, self._activity = work, outage, activity
        self._share, self._rest_sec_max, self._quiet_sec_max = share, rest_sec_max, quiet_sec_max
        self.last_error: StoreError | None = None  # of the last attempt
        self.attempts = self._failures = 0
        self.stopped = False
        self._busy_since = math.inf  # when the attempt began that is under way
        self._wake: SimpleQueue[None] = SimpleQueue()  # an Event's set() takes ten times as long on the training thread
        self._hurry = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"mlflow_ddpm-upload-{name}", daemon=True)

    def start(self) -> None:
        """Begin, once, whoever calls; the first attempt follows as soon as the training thread is quiet."""
        with self._changed:
            if self._thread.ident is None:
                self._wake.put(None)
                self._thread.start()

    def notify(self) -> None:
        """Have it work soon; return at once. While the store is away, the lane keeps its own time."""
        if not self._failures and self._wake.empty():
            self._wake.put(None)

    def hurry(self) -> None:
        """Have it work now, not when the rest after an attempt or the pause of an outage is over."""
        self._hurry.set()
        self._wake.put(None)

    def stop(self) -> None:
        """Begin nothing more; a call to the store that is under way ends by itself."""
        self.stopped = True
        self.hurry()

    @property
    def busy_sec(self) -> float:
        """Seconds since the attempt under way began; below 0 between attempts."""
        return time.monotonic() - self._busy_since

    @property
    def is_refused(self) -> bool:
        """Whether the store refused, so that waiting does not help."""
        return isinstance(self.last_error, StoreRefusedError)

    @property
    def can_work(self) -> bool:
        """Whether its thread lives and may be waited for: a forked child has none, and none waits for itself."""
        return self._thread.is_alive() and not self.stopped and self._thread is not threading.current_thread()

    def changed(self) -> None:
        """Wake whoever waits in :meth:`wait_for`."""
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``done``, looked at after each attempt; return whether it is."""
        with self._changed:
            return self._changed.wait_for(done, timeout)

    def work_until(self, done: Callable[[], bool], timeout: float) -> bool:
        """Work without rests until ``done``, the store refuses, or the time is up; return whether it is done."""
        deadline, attempts = time.monotonic() + timeout, self.attempts
        while not done() and self.can_work and not (self.is_refused and self.attempts > attempts):
            self.hurry()
            left = deadline - time.monotonic()
            if left <= 0 or self.wait_for(done, min(left, _PAUSES_SEC[0])):
                break
        return done()

    def _run(self) -> None:
        while not self.stopped:
            with contextlib.suppress(Exception):  # a log handler that raises, an attempt that went wrong as none before
                self._live()

    def _live(self) -> None:
        with contextlib.suppress(Empty):
            self._wake.get(timeout=self._pause())
        while not self._wake.empty():  # no other thread takes from it
            self._wake.get()
        self._wait_for_quiet()
        self._hurry.clear()  # now, so that whoever is in a hurry from here on does not wait for a rest
        if self.stopped:
            return
        began = self._busy_since = time.monotonic()
        try:
            self._attempt()
        finally:
            self._busy_since = math.inf
            self.attempts += 1
            self.changed()
        if not self._failures and self.attempts > 1:  # the first opens the run; the first epoch is to be seen soon
            self._hurry.wait(min((time.monotonic() - began) / self._share, self._rest_sec_max))

    def _wait_for_quiet(self) -> None:
        """Wait until nothing was written for a moment, but not for ever."""
        deadline = time.monotonic() + self._quiet_sec_max
        while not self._hurry.is_set():
            now = time.monotonic()
            left = min(self._activity.written_at + _QUIET_SEC, deadline) - now
            if left <= 0:
                return
            self._hurry.wait(left)

    def _pause(self) -> float | None:
        if not self._failures:
            return None
        return _PAUSES_SEC[-1] if self.is_refused else _PAUSES_SEC[min(self._failures, len(_PAUSES_SEC)) - 1]

    def _attempt(self) -> None:
        try:
            self._work()
        except StoreError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - nothing that happens here may reach, or end, a training
            _log.debug("an upload failed", exc_info=True)
            self._fail(StoreUnavailableError(f"the upload failed: {type(error).__name__}: {error}"))
        else:
            self._failures, self.last_error = 0, None
            self._outage.recovered()

    def _fail(self, error: StoreError) -> None:
        self._failures += 1
        self.last_error = error
        if not self.stopped:
            self._outage.failed(error, self._failures)
