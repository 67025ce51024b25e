"""Findings while a run runs: after a row the rules look at the run so far, on a thread of their own.

What a rule of severity error or warning finds for the first time is one log line, a tag, and a call of each callback.
It waits neither for the store nor for the training thread. The rules take time in proportion to the run's length, so
they rest a hundred times as long after each look: a long run is looked at less often, not at more cost. Callbacks have
a thread of their own: one that takes long, or never returns, keeps no look and no line back.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlflow_ddpm.analysis.findings.rules import Finding, find_findings
from mlflow_ddpm.analysis.run_description import FINDINGS_TAG, findings_text
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.tracking.lane import Activity, Lane
from mlflow_ddpm.tracking.outage import OutageLog
from mlflow_ddpm.tracking.upload_items import Tags

_LOGGED_BY_METER = "nonfinite_batches"  # with the batch's number, as soon as the row is measured
_ANNOUNCED = {"error": logging.ERROR, "warning": logging.WARNING}  # severities, and the log's levels
_SHARE, _REST_SEC_MAX, _QUIET_SEC_MAX = 0.01, 300.0, 1.0
_CLOSE_SEC = 2.0  # for a last look and its callbacks, at most

_log = logging.getLogger("mlflow_ddpm")


class FindingsWatch:
    """Announces each finding once, also to the ``callbacks``. What the rows from before a resume show is no news."""

    def __init__(
        self,
        mirror: Mirror,
        environment: Mapping[str, Any],
        every_n_steps: int | None,
        send: Callable[[Tags], None],
        activity: Activity,
    ) -> None:
        self._mirror, self._environment, self._send = mirror, environment, send
        self._run = {"every_n_steps": every_n_steps} if every_n_steps else {}
        self.callbacks: list[Callable[[Finding], object]] = []
        self._old = {(row.epoch, row.logged_at_ms) for row in mirror.rows}  # from before a resume
        self._known: set[str] | None = None  # rules whose findings are no news
        self._seen_ms = self._newest_ms()
        timing = {"share": _SHARE, "rest_sec_max": _REST_SEC_MAX, "quiet_sec_max": _QUIET_SEC_MAX}
        self._lane = Lane("findings", self._look, OutageLog("findings", advice=None), activity, **timing)
        self._uncalled: deque[Finding] = deque()
        at_once = {"rest_sec_max": 0.0, "quiet_sec_max": 0.0}
        outage = OutageLog("callbacks", advice=None)
        self._callback_lane = Lane("callbacks", self._call_back, outage, activity, **at_once)

    def notify(self) -> None:
        """Have the rules look at a new row; return at once."""
        self._lane.start()
        if self.callbacks:
            self._callback_lane.start()  # now: a finding may come at the interpreter's end, when no thread can start
        self._lane.notify()

    def close(self, timeout: float) -> None:
        """Look a last time, and stop. Returns within ``timeout`` seconds, and within two."""
        deadline = time.monotonic() + min(timeout, _CLOSE_SEC)
        self._lane.work_until(lambda: self._seen_ms >= self._newest_ms(), deadline - time.monotonic())
        self._callback_lane.work_until(lambda: not self._uncalled, deadline - time.monotonic())
        self.stop()

    def stop(self) -> None:
        """Look no more."""
        self._lane.stop()
        self._callback_lane.stop()

    def _newest_ms(self) -> int:
        return self._mirror.rows[-1].logged_at_ms if self._mirror.rows else 0

    def _look(self) -> None:
        rows = list(self._mirror.rows)
        if not rows or rows[-1].logged_at_ms <= self._seen_ms:
            return
        try:
            self._announce_new(rows)
        finally:  # a rule that breaks on these rows would break again; not before, as close() then waits no longer
            self._seen_ms = rows[-1].logged_at_ms

    def _announce_new(self, rows: list[EpochMetrics]) -> None:
        if self._known is None:
            old = self._history(row for row in rows if (row.epoch, row.logged_at_ms) in self._old)
            self._known = {finding.rule for finding in find_findings(old)} if old.rows else set()
        history = self._history(rows)
        findings = find_findings(history)
        new = [f for f in findings if f.severity in _ANNOUNCED and f.rule not in self._known]
        self._known.update(finding.rule for finding in new)
        if new:
            self._send(Tags({FINDINGS_TAG: findings_text(findings)}))
            self._log_lines(new, history)
        if new and self.callbacks:
            self._uncalled.extend(new)
            self._callback_lane.start()
            self._callback_lane.notify()

    def _history(self, rows: Iterable[EpochMetrics]) -> RunHistory:
        return RunHistory.create(rows, run=self._run, environment=self._environment)

    @staticmethod
    def _log_lines(new: Iterable[Finding], history: RunHistory) -> None:
        for finding in new:
            if finding.rule != _LOGGED_BY_METER:
                text = f"{finding.label}: {finding.title}, {finding.where}. {finding.sentence}"
                with contextlib.suppress(Exception):  # a handler of the user's may raise
                    _log.log(_ANNOUNCED[finding.severity], "%s", history.worded(text))

    def _call_back(self) -> None:
        while self._uncalled:
            for callback in list(self.callbacks):
                if self._callback_lane.stopped:  # close() has returned, or is about to
                    return
                try:
                    callback(self._uncalled[0])
                except BaseException as error:  # noqa: BLE001 - the user's, sys.exit() too: it ends this thread in no case
                    with contextlib.suppress(Exception):
                        _log.warning("a callback of on_finding raised %s: %s", type(error).__name__, error)
            self._uncalled.popleft()
