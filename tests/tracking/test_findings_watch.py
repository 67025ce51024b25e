"""Findings while a run runs: logged once, tagged, called back, off the training thread and whatever the store does."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.analysis.findings import rules
from mlflow_ddpm.analysis.findings.rule import Rule
from mlflow_ddpm.analysis.findings.rules import Finding
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.tracking import findings_watch, remote_run
from mlflow_ddpm.tracking.findings_watch import FindingsWatch
from mlflow_ddpm.tracking.lane import Activity

TAG = "mlflow_ddpm.findings"


def _epoch(tracker: MetricsTracker, loss: float = 1.0, grad_norm: float = 1.0) -> None:
    tracker.start_epoch(tracker.next_epoch)
    tracker.log_batch(loss, grad_norm=grad_norm)
    tracker.end_epoch()


def _wait(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _tag(uri: str, tracker: MetricsTracker) -> str | None:
    tag: str | None = MlflowClient(uri).get_run(str(tracker.run_id)).data.tags.get(TAG)
    return tag


def _lines(caplog: pytest.LogCaptureFixture, text: str) -> list[int]:
    return [record.levelno for record in caplog.records if text in record.getMessage()]


def test_a_finding_is_one_log_line_and_a_tag_while_the_run_runs(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However many rows show it."""
    with MetricsTracker("out") as tracker:
        _epoch(tracker)
        _epoch(tracker, math.nan)
        _wait(lambda: _tag(sqlite_uri, tracker))
        assert set(str(_tag(sqlite_uri, tracker)).split(", ")) == {"nonfinite_batches", "divergence"}
        for _ in range(3):
            _epoch(tracker, math.nan)

    assert _lines(caplog, "Error: Divergence, epoch 1. ") == [logging.ERROR]
    assert _lines(caplog, "batch of epoch 1, first in batch 0") == [logging.WARNING]


def test_in_a_loop_by_steps_the_line_names_steps(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """No epochs."""
    with MetricsTracker("out", every_n_steps=2) as tracker:
        for step in range(4):
            tracker.log_step(step, math.nan)

    assert [record.getMessage() for record in caplog.records if "Error: Divergence, step" in record.getMessage()]


def test_a_loop_stops_itself(sqlite_uri: str) -> None:
    """The callback sets what the loop looks at; it gets the finding, on another thread."""
    stop, seen, threads = threading.Event(), [], []

    def note(finding: Finding) -> None:
        seen.append((finding.rule, finding.severity, finding.epochs))
        threads.append(threading.current_thread())
        stop.set()

    with MetricsTracker("out") as tracker:
        tracker.on_finding(note)
        for epoch in range(10_000):
            if stop.is_set():
                break
            _epoch(tracker, 1.0 if epoch < 3 else math.inf)
            time.sleep(0.05)

    assert 3 < tracker.next_epoch < 10_000
    assert ("nonfinite_batches", "error") == seen[0][:2]
    assert seen[0][2][0] == 3
    assert threading.main_thread() not in threads


def test_a_callback_that_raises_is_a_warning(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """The others are called all the same, the rows are sent, and the run ends as ever."""
    seen: list[str] = []
    with MetricsTracker("out") as tracker:
        tracker.on_finding(lambda _: 1 / 0)
        tracker.on_finding(lambda _: sys.exit(3))  # which would end that thread without a line
        tracker.on_finding(lambda finding: seen.append(finding.rule))
        _epoch(tracker, math.nan)
        _wait(lambda: seen)
        _epoch(tracker)

    assert len(_lines(caplog, "a callback of on_finding raised ZeroDivisionError")) == len(seen)
    assert MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).info.status == "FINISHED"


@pytest.mark.slow
def test_a_callback_that_never_returns_keeps_no_line_back(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does one that takes long make the rules rest: it stands on a thread of its own."""
    forever, seen = threading.Event(), []

    def wait(finding: Finding) -> None:
        seen.append(finding.rule)
        forever.wait(60)

    tracker = MetricsTracker("out")
    tracker.on_finding(wait)
    _epoch(tracker, math.nan)
    _wait(lambda: seen)
    for _ in range(5):
        _epoch(tracker, grad_norm=0.0)
    _wait(lambda: _lines(caplog, "Error: Gradient vanishing"))
    tracker.close(timeout=0.5)
    forever.set()

    assert _lines(caplog, "Error: Divergence") == [logging.ERROR]


@pytest.mark.slow
def test_a_callback_may_close_the_tracker(sqlite_uri: str) -> None:
    """It waits for no callback, least of all for itself."""
    tracker, took = MetricsTracker("out"), []

    def close(_: Finding) -> None:
        began = time.monotonic()
        tracker.close("FAILED")
        took.append(time.monotonic() - began)

    tracker.on_finding(close)
    _epoch(tracker, math.nan)
    _wait(lambda: took)

    assert MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).info.status == "FAILED"


def _watch(send: Callable[[object], None]) -> FindingsWatch:
    """Return one that looks at once at a row that two rules find something in."""
    mirror, activity = Mirror(Path("out")), Activity()
    watch = FindingsWatch(mirror, {}, None, send, activity)
    mirror.rows.append(EpochMetrics(epoch=0, loss_mean=math.nan, nonfinite_batches=1, batches=1, logged_at_ms=1))
    activity.written_at = -math.inf
    return watch


def test_close_waits_for_a_look_until_its_callbacks_are_called() -> None:
    """Not until the rules are done: the tag and the log's lines come between."""
    seen: list[str] = []
    closing = threading.Thread(target=lambda: watch.close(10.0))

    def send(_: object) -> None:
        closing.start()
        closing.join(0.02)

    watch = _watch(send)
    watch.callbacks.append(lambda finding: seen.append(finding.rule))
    watch.notify()
    _wait(lambda: closing.ident)
    closing.join()

    assert set(seen) == {"nonfinite_batches", "divergence"}


def test_nothing_is_called_after_close() -> None:
    """A callback that close() did not wait for ends by itself; those after it are left out."""
    is_called, may_end, seen = threading.Event(), threading.Event(), []

    def wait(finding: Finding) -> None:
        seen.append(finding.rule)
        is_called.set()
        may_end.wait(30)

    watch = _watch(lambda _: None)
    watch.callbacks += [wait, wait]
    watch.notify()
    is_called.wait(30)
    watch.close(timeout=0.0)
    may_end.set()
    watch._callback_lane._thread.join()

    assert len(seen) == 1


def test_the_thread_of_callbacks_starts_with_the_first_row() -> None:
    """At the interpreter's end, when the last row may be looked at, no thread can start."""
    watch = _watch(lambda _: None)
    watch._mirror.rows.clear()
    watch.callbacks.append(print)
    watch.notify()

    assert watch._callback_lane.can_work
    watch.stop()


def test_infos_are_no_news(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """A step that GradScaler skips is normal. And a callback that cannot be called is refused at once."""
    seen: list[Finding] = []
    with MetricsTracker("out") as tracker:
        with pytest.raises(UsageError, match="takes a function of a finding, got 'stop'"):
            tracker.on_finding("stop")  # type: ignore[arg-type]
        tracker.on_finding(seen.append)
        tracker.start_epoch(0)
        tracker.log_batch(1.0, grad_norm=math.inf)
        tracker.log_batch(1.0, grad_norm=1.0)
        tracker.end_epoch()

    assert seen == []
    assert not _lines(caplog, "Skipped")


def test_the_last_row_is_looked_at_before_the_run_ends(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also when rows were written too fast for a look at each."""
    with MetricsTracker("out") as tracker:
        for epoch in range(50):
            _epoch(tracker, math.nan if epoch == 49 else 1.0)

    assert _lines(caplog, "Error: Divergence") == [logging.ERROR]


def test_a_store_that_is_away_keeps_no_finding_back(tmp_path: Path) -> None:
    """Stopping a loop must not need MLflow."""
    seen: list[str] = []
    tracker = MetricsTracker(tmp_path / "out", tracking_uri="http://127.0.0.1:9")
    tracker.on_finding(lambda finding: seen.append(finding.rule))
    _epoch(tracker, math.nan)
    _wait(lambda: "nonfinite_batches" in seen)
    tracker.close(timeout=0.1)


def test_what_the_rows_before_a_resume_show_is_no_news_but_the_same_again_is(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows that the resume replaces are gone."""
    with MetricsTracker("out") as tracker:
        for loss in (1.0, math.nan, 1.0):
            _epoch(tracker, loss)
    caplog.clear()
    with MetricsTracker("out", resume=True) as tracker:
        _epoch(tracker)
    assert not _lines(caplog, "Error")

    with MetricsTracker("out", resume=True) as tracker:
        for epoch, loss in ((1, 1.0), (2, math.nan)):
            tracker.start_epoch(epoch)
            tracker.log_batch(loss)
            tracker.end_epoch()
    assert _lines(caplog, "Error: Divergence") == [logging.ERROR]


def test_a_rule_that_breaks_ends_nothing(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are sent, the run ends."""

    def broken(_: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr(rules, "RULES", [Rule("broken", "Broken", "error", "", broken)])
    with MetricsTracker("out") as tracker:
        _epoch(tracker)
    assert MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).info.status == "FINISHED"


def test_the_description_is_refreshed_while_the_run_runs(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most every so often, with a row: here, every half second, and then no more."""
    monkeypatch.setattr(remote_run, "_DESCRIBE_SEC", 0.5)

    def note() -> str:
        return str(MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).data.tags.get("mlflow.note.content", ""))

    def has_described_another_row() -> bool:
        _epoch(tracker)
        tracker.flush()
        time.sleep(0.2)
        return bool(note())

    with MetricsTracker("out") as tracker:
        _epoch(tracker)
        assert tracker.flush()
        _wait(has_described_another_row)
        monkeypatch.setattr(tracker._recorder._remote, "_describe_at", math.inf)  # type: ignore[union-attr]
        before = note()
        _epoch(tracker)
        tracker.flush()
        assert note() == before
    assert f"{tracker.next_epoch} epochs" in note()


def test_looks_at_long_runs_are_rare(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that takes long is followed by a rest a hundred times as long."""
    looks: list[float] = []
    find = rules.find_findings

    def slow(history: object) -> list[Finding]:
        looks.append(time.monotonic())
        time.sleep(0.05)
        return list(find(history))  # type: ignore[arg-type]

    monkeypatch.setattr(findings_watch, "find_findings", slow)
    with MetricsTracker("out") as tracker:
        _epoch(tracker)
        began = time.monotonic()
        while time.monotonic() < began + 2:
            _epoch(tracker)
            time.sleep(0.15)

    assert len(looks) <= 3  # the first two, without a rest between, and the last one at the end
