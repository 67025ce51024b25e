"""How a training ends: which signals count, and whose handlers stand before, during and after it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.common import slow

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.errors import PeerLostError
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.tracking.shutdown import ShutdownHandler, classify_exit, insist

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[Any]]:
    """The handlers before the test; it must leave them so."""
    before = [signal.getsignal(signum) for signum in SIGNALS]
    yield before
    after = [signal.getsignal(signum) for signum in SIGNALS]
    for signum, handler in zip(SIGNALS, before, strict=True):
        signal.signal(signum, handler)
    assert after == before


def watch() -> ShutdownHandler:
    """A handler whose owner does nothing at exit."""
    handler = ShutdownHandler(lambda outcome: outcome)
    handler.start()
    return handler


def in_thread(action: Callable[[], Any]) -> Any:
    """Run it on a thread of its own and return what it returns."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(action()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize(
    ("error", "signum", "status"),
    [
        (None, None, "FINISHED"),
        (SystemExit(0), None, "FINISHED"),
        (SystemExit(3), None, "FAILED"),
        (type("TrialPruned", (Exception,), {})(), None, "FINISHED"),
        (ValueError("x"), None, "FAILED"),
        (type("Textless", (Exception,), {"__str__": lambda _: 1 / 0})(), None, "FAILED"),
        (KeyboardInterrupt(), None, "KILLED"),
        (SystemExit(143), signal.SIGTERM, "KILLED"),
        (PeerLostError("rank 1 died"), signal.SIGTERM, "FAILED"),
    ],
)
def test_an_exit_is_classified(error: BaseException | None, signum: int | None, status: str) -> None:
    """After the death of a rank the launcher signals the others: that is no reason of its own."""
    assert classify_exit(error, signum).status == status


class AlarmError(Exception):
    """What a timer's handler raises."""


def ring(signum: int, frame: object) -> None:
    """Handle SIGALRM."""
    raise AlarmError


@pytest.mark.parametrize(
    ("error", "tries"), [(KeyboardInterrupt, 3), (SystemExit, 3), (AlarmError, 3), (OSError, 1), (StopIteration, 1)]
)
def test_a_step_of_the_end_is_done_whatever_interrupts_it_and_an_error_of_its_own_comes_once(
    error: type[BaseException], tries: int
) -> None:
    """A timer of the user's raises what it likes, from its handler."""
    calls, before = [], signal.signal(signal.SIGALRM, ring)

    def step(seconds: float) -> None:
        calls.append(seconds)
        if len(calls) < 3 and error is AlarmError:
            signal.raise_signal(signal.SIGALRM)
        if len(calls) < 3:
            raise error

    try:
        with pytest.raises(error):
            insist(step, 5.0)
    finally:
        signal.signal(signal.SIGALRM, before)

    assert len(calls) == tries


@pytest.mark.parametrize("signum", SIGNALS)
def test_an_exception_that_a_signal_raised_ends_the_run_as_killed(signum: signal.Signals) -> None:
    """SIGINT stays a KeyboardInterrupt, SIGTERM becomes an exit with 143; what follows from it counts, too."""
    shutdown = watch()
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)) as caught:
            signal.raise_signal(signum)
        follower = RuntimeError("the data loader stopped")
        follower.__context__ = caught.value

        assert shutdown.outcome_of(caught.value) == RunOutcome("KILLED", signum.name)
        assert shutdown.outcome_of(follower) == RunOutcome("KILLED", signum.name)
        assert shutdown.outcome_of(ValueError("unrelated")).status == "FAILED"
        assert shutdown.outcome_of(None).status == "FINISHED"  # the loop caught it
    finally:
        shutdown.stop()


@pytest.mark.parametrize("code", [0, 1, "preempted"])
@pytest.mark.parametrize("form", ["function", "lambda", "method"])
@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_handler_of_the_users_that_leaves_or_closes_ends_the_run_as_killed(
    form: str, code: int | str, moment: str
) -> None:
    """During the run it takes the tracker's place; an exit that no signal caused counts as it is."""
    outcomes: list[RunOutcome] = []

    class Leaver:
        def leave(self, *_: object) -> None:
            leave()

    def leave(*_: object) -> None:
        outcomes.append(shutdown.outcome_at_close(None, None))
        raise SystemExit(code)

    handler: Any = {"function": leave, "lambda": lambda *_: leave(), "method": Leaver().leave}[form]
    before = signal.getsignal(signal.SIGTERM)
    if moment == "before":
        signal.signal(signal.SIGTERM, handler)
    shutdown = watch()
    if moment == "during":
        signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert [*outcomes, shutdown.outcome_of(caught.value)] == [RunOutcome("KILLED", "SIGTERM")] * 2
        assert shutdown.outcome_of(BaseExceptionGroup("tasks", [caught.value])) == RunOutcome("KILLED", "SIGTERM")
        assert shutdown.outcome_of(SystemExit(code)).status == ("FAILED" if code else "FINISHED")
    finally:
        shutdown.stop()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("form", ["named", "any", "deletes"])
@pytest.mark.parametrize("moment", ["before", "during"])
def test_a_handler_that_the_script_calls_itself_is_no_signal(form: str, moment: str) -> None:
    """One function may serve two signals and the normal end; a signal passes its number and a frame."""
    outcomes: list[RunOutcome] = []

    def leave() -> None:
        outcomes.append(shutdown.outcome_at_close(None, None))
        raise OSError

    def named(signum: int | None = None, frame: object = None) -> None:
        leave()

    def deletes(signum: int, frame: object) -> None:
        del signum, frame
        leave()

    def of_any(*_: object) -> None:
        leave()

    handler: Any = {"named": named, "any": of_any, "deletes": deletes}[form]
    before = [signal.getsignal(signum) for signum in SIGNALS]
    shutdown = ShutdownHandler(lambda outcome: outcome)
    steps: list[Callable[[], object]] = [shutdown.start, lambda: [signal.signal(signum, handler) for signum in SIGNALS]]
    for step in steps if moment == "during" else reversed(steps):
        step()
    try:
        for call in (*(partial(signal.raise_signal, signum) for signum in SIGNALS), handler, partial(handler, None)):
            shutdown.epoch_begins()
            with contextlib.suppress(TypeError):  # of a call without what it takes
                try:
                    call()
                except OSError as error:
                    outcomes.append(shutdown.outcome_of(error))
    finally:
        shutdown.stop()
        for signum, earlier in zip(SIGNALS, before, strict=True):
            signal.signal(signum, earlier)

    killed = [RunOutcome("KILLED", signum.name) for signum in SIGNALS for _ in range(2)]
    if form == "deletes":
        assert [outcome.status for outcome in outcomes] == ["KILLED"] * 4
    else:
        assert outcomes == [*killed, *[RunOutcome("FINISHED"), RunOutcome("FAILED", "OSError", "")] * 2]


def test_an_ignored_signal_stays_ignored_and_changes_nothing() -> None:
    """Neither nohup nor `&` in a script is undone."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    shutdown = watch()
    try:
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.raise_signal(signal.SIGINT)
        assert shutdown.outcome_of(None).status == "FINISHED"
    finally:
        shutdown.stop()
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("epochs", "status"), [(0, "KILLED"), (1, "KILLED"), (2, "FINISHED"), (5, "FINISHED")])
def test_a_handler_that_returns_ends_the_run_only_if_the_loop_leaves_at_once(epochs: int, status: str) -> None:
    """A loop that looks at a flag leaves within an epoch; one that goes on was not ended by the signal."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, _: asked.append(signum))
    shutdown = watch()
    try:
        signal.raise_signal(signal.SIGTERM)
        for _ in range(epochs):
            shutdown.epoch_begins()
        assert asked == [signal.SIGTERM]
        assert shutdown.outcome_of(None).status == status
        assert shutdown.outcome_of(ValueError("x")).status == "FAILED"
    finally:
        shutdown.stop()
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("order", ["first in first out", "last in first out"])
@pytest.mark.parametrize("opens", ["main", "thread"])
@pytest.mark.parametrize("closes", ["main", "thread"])
def test_trackers_opened_and_closed_anywhere_leave_the_handlers_as_they_were(
    order: str, opens: str, closes: str, handlers: list[Any]
) -> None:
    """Ctrl-C arrives once as KeyboardInterrupt while they are open, and afterwards."""
    first = in_thread(watch) if opens == "thread" else watch()
    second = watch()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    for shutdown in (first, second) if order == "first in first out" else (second, first):
        if closes == "thread":
            in_thread(shutdown.stop)
        else:
            shutdown.stop()

    assert [signal.getsignal(signum) for signum in SIGNALS] == handlers
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_tracker_of_a_thread_installs_nothing_and_a_later_one_of_the_main_thread_does() -> None:
    """SIGTERM then ends both."""
    first = in_thread(watch)
    before = signal.getsignal(signal.SIGTERM)
    second = watch()
    try:
        assert signal.getsignal(signal.SIGTERM) is not before
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
        assert [shutdown.outcome_of(caught.value).status for shutdown in (first, second)] == ["KILLED", "KILLED"]
    finally:
        first.stop()
        second.stop()


def test_a_handler_set_between_is_kept_and_may_call_the_earlier_one() -> None:
    """No recursion, whoever calls whom; and the user's handler is not taken away."""
    original = signal.getsignal(signal.SIGINT)
    calls: list[str] = []
    first = watch()
    ours: Any = signal.getsignal(signal.SIGINT)

    def of_user(signum: int, frame: Any) -> None:
        calls.append("user")
        ours(signum, frame)

    signal.signal(signal.SIGINT, of_user)
    first.stop()
    second = watch()
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        second.stop()
        assert signal.getsignal(signal.SIGINT) is of_user
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert calls == ["user", "user"]
    finally:
        signal.signal(signal.SIGINT, original)


@pytest.mark.parametrize(
    ("loop", "status"),
    [
        ("run(0); run(1)\nos.kill(os.getpid(), signal.SIGTERM)", "KILLED"),
        slow(
            "run(0)\ntry:\n  os.kill(os.getpid(), signal.SIGTERM); run(1)\nexcept SystemExit: pass\nrun(1); run(2)",
            "FINISHED",
        ),
        slow("run(0)\ntry:\n  os.kill(os.getpid(), signal.SIGINT); run(1)\nexcept KeyboardInterrupt: pass", "FINISHED"),
        slow("run(0)\nraise ValueError('x')", "FAILED"),
        slow("run(0); tracker.close()\ntracker = MetricsTracker('out', resume=True)\nrun(1)", "FINISHED"),
    ],
    ids=["SIGTERM", "SIGTERM caught", "Ctrl-C caught", "exception", "resumed"],
)
def test_a_script_without_a_with_block_ends_truly(loop: str, status: str, sqlite_uri: str) -> None:
    """What ended it is seen at the interpreter's exit."""
    code = f"""
import os, signal
from mlflow_ddpm import MetricsTracker
tracker = MetricsTracker("out")
def run(epoch):
    tracker.start_epoch(epoch); tracker.log_batch(1.0); tracker.end_epoch()
{loop}
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120, capture_output=True)

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    assert run.info.status == status
    assert b"set aside" not in done.stderr


CHILDREN = """
import os, signal, mlflow
from multiprocessing import get_context
from torch.multiprocessing import start_processes
from mlflow_ddpm import MetricsTracker
def train(index, name, end):
    tracker = MetricsTracker(name, run_name=name)
    tracker.start_epoch(0); tracker.log_batch(1.0); tracker.end_epoch()
    end()
def fail(): raise ValueError("x")
def interrupt(): os.kill(os.getpid(), signal.SIGINT)
for name, end in (("fine", int), ("fails", fail)):
    process = get_context("fork").Process(target=train, args=(0, name, end))
    process.start()
    process.join()
for name, end in (("fails in torch", fail), ("stopped in torch", interrupt)):
    try: start_processes(train, (name, end), nprocs=1, start_method="fork")
    except Exception: pass
"""


@pytest.mark.slow
def test_a_training_in_a_child_process_ends_truly(sqlite_uri: str) -> None:
    """``multiprocessing`` ends a forked process without ``atexit``; torch turns what it raised into an exit code."""
    subprocess.run([sys.executable, "-c", CHILDREN], check=False, timeout=240, capture_output=True)
    runs = MlflowClient(sqlite_uri).search_runs(["0"])

    ends = {
        run.info.run_name: (run.info.status, run.data.tags.get("error.type"))
        for run in runs
        if run.data.metrics["loss_mean"] == 1.0  # its row has arrived
    }
    assert ends == {
        "fine": ("FINISHED", None),
        "fails": ("FAILED", "ValueError"),
        "fails in torch": ("FAILED", "ValueError"),
        "stopped in torch": ("KILLED", "SIGINT"),
    }


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("try:\n  run(0); raise ValueError('x')\nfinally: tracker.close()", "FAILED", "ValueError"),
        slow("try:\n  run(0); raise ValueError('x')\nexcept ValueError: tracker.close()", "FAILED", "ValueError"),
        ("try:\n  run(0); kill(signal.SIGTERM)\nfinally: tracker.close()", "KILLED", "SIGTERM"),
        slow("try:\n  run(0); kill(signal.SIGINT)\nfinally: tracker.close()", "KILLED", "SIGINT"),
        slow("try:\n  run(0); kill(signal.SIGHUP)\nfinally: tracker.close()", "KILLED", "SIGHUP"),
        ("try:\n  run(0); sys.exit(3)\nfinally: tracker.close()", "FAILED", "SystemExit"),
        slow("try:\n  run(0); sys.exit(0)\nfinally: tracker.close()", "FINISHED", None),
        slow("try:\n  run(0)\nfinally: tracker.close()", "FINISHED", None),
        slow("try: raise ValueError('x')\nexcept ValueError: run(0); tracker.close()", "FINISHED", None),
        slow("try: raise ValueError('x')\nexcept ValueError: pass\nrun(0); tracker.close()", "FINISHED", None),
        slow("try:\n  run(0); raise ValueError('x')\nexcept ValueError: tracker.close('FINISHED')", "FINISHED", None),
        slow("try:\n  run(0); next(iter([]))\nexcept StopIteration: tracker.close()", "FINISHED", None),
        slow(
            "signal.signal(15, lambda *_: 0); os.kill(os.getpid(), 15); run(0); run(1); tracker.close()",
            "FINISHED",
            None,
        ),
    ],
)
def test_a_close_in_a_finally_block_sees_what_ended_the_training(
    body: str, status: str, error: str | None, sqlite_uri: str
) -> None:
    """The exception under way counts, unless the training went on after it was raised."""
    before = signal.getsignal(signal.SIGTERM)
    tracker = MetricsTracker("out")

    def run(epoch: int) -> None:
        tracker.start_epoch(epoch)
        tracker.log_batch(1.0)
        tracker.end_epoch()

    def kill(signum: int) -> None:
        os.kill(os.getpid(), signum)
        time.sleep(10)

    with contextlib.suppress(ValueError, SystemExit, KeyboardInterrupt):
        exec(body, {**globals(), "tracker": tracker, "run": run, "kill": kill})  # noqa: S102
    signal.signal(signal.SIGTERM, before)

    (ended,) = MlflowClient(sqlite_uri).search_runs(["0"])
    assert (ended.info.status, ended.data.tags.get("error.type")) == (status, error)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_handler_of_another_signal_than_sigterm_that_returns_changes_nothing(signum: signal.Signals) -> None:
    """It shows the progress, say; SIGTERM alone is a request to leave."""
    before = signal.signal(signum, lambda *_: None)
    shutdown = watch()
    try:
        signal.raise_signal(signum)
        assert shutdown.outcome_of(None).status == "FINISHED"
    finally:
        shutdown.stop()
        signal.signal(signum, before)


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, "KILLED"), slow(signal.SIGTERM, "KILLED"), (None, "FAILED")]
)
def test_a_task_that_a_signal_cancelled_ends_its_run_as_killed(
    signum: signal.Signals | None, status: str, sqlite_uri: str
) -> None:
    """By asyncio's own handler, or the user's, which return; a task that something else cancelled has failed."""

    async def train() -> None:
        if signum == signal.SIGTERM:
            asyncio.get_running_loop().add_signal_handler(signum, asyncio.current_task().cancel)  # type: ignore[union-attr]
        with MetricsTracker("out") as tracker:
            for epoch in range(500):
                tracker.start_epoch(epoch)
                tracker.end_epoch()
                if epoch == 1 and signum:
                    os.kill(os.getpid(), signum)
                elif epoch == 1:
                    asyncio.current_task().cancel()  # type: ignore[union-attr]
                await asyncio.sleep(0.01)

    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        asyncio.run(train())

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    assert run.info.status == status


def test_a_generator_that_is_closed_ends_its_run_as_finished(sqlite_uri: str) -> None:
    """As where a loop over it is left by ``break``; with a signal before, the loop was left for that."""

    def epochs(directory: str) -> Iterator[int]:
        with MetricsTracker(directory) as tracker:
            for epoch in range(9):
                tracker.start_epoch(epoch)
                tracker.end_epoch()
                yield epoch

    for _ in epochs("plain"):
        break
    signal.signal(signal.SIGTERM, lambda *_: None)
    for _ in epochs("signal"):
        os.kill(os.getpid(), signal.SIGTERM)
        break
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(KeyboardInterrupt):
        for _ in epochs("Ctrl-C"):
            os.kill(os.getpid(), signal.SIGINT)

    runs = MlflowClient(sqlite_uri).search_runs(["0"], order_by=["attributes.start_time"])
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "KILLED"]


def test_a_resumed_run_that_finishes_bears_no_old_error(sqlite_uri: str) -> None:
    """Why an earlier part of it ended is not why the whole did."""
    with pytest.raises(ValueError, match="out of memory"), MetricsTracker("out") as tracker:
        raise ValueError("out of memory")
    client = MlflowClient(sqlite_uri)
    assert client.get_run(str(tracker.run_id)).data.tags["error.type"] == "ValueError"

    with MetricsTracker("out") as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(1.0)
        tracker.end_epoch()

    run = client.get_run(str(tracker.run_id))
    assert run.info.status == "FINISHED"
    assert not [key for key in run.data.tags if key.startswith("error.")]


def test_a_forked_child_dies_of_sigterm_as_if_nothing_watched(sqlite_uri: str, tmp_path: Path) -> None:
    """A data loader's worker that is stopped unwinds nothing of the training's."""
    ready, tell = os.pipe()
    with MetricsTracker("out"):
        child = os.fork()
        if not child:
            try:
                os.write(tell, b"!")
                time.sleep(20)
            except BaseException:  # noqa: BLE001 - what must not come
                (tmp_path / "unwound").touch()
            os._exit(0)
        os.read(ready, 1)  # Python forgets a signal that comes while it forks
        os.kill(child, signal.SIGTERM)
        _, code = os.waitpid(child, 0)

    assert os.WTERMSIG(code) == signal.SIGTERM
    assert not (tmp_path / "unwound").exists()


@pytest.mark.parametrize(
    ("epochs_after", "given", "status"), [(0, None, "KILLED"), (2, None, "FINISHED"), (0, "FINISHED", "FINISHED")]
)
def test_a_close_after_a_loop_that_was_left_for_sigterm_ends_the_run_as_killed(
    sqlite_uri: str, epochs_after: int, given: str | None, status: str
) -> None:
    """So that the job which a batch system begins again resumes the run; the caller's own word counts more."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        tracker = MetricsTracker("out")
        for epoch in range(1 + epochs_after):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0)
            tracker.end_epoch()
            if epoch == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        tracker.close(given)
    finally:
        signal.signal(signal.SIGTERM, before)

    run = MlflowClient(sqlite_uri).get_run(str(tracker.run_id))
    assert (run.info.status, run.data.tags.get("error.type")) == (status, "SIGTERM" if status == "KILLED" else None)


@pytest.mark.parametrize(("windows_after", "status"), [(0, "KILLED"), (1, "KILLED"), (4, "FINISHED")])
def test_in_a_loop_by_steps_windows_count_as_epochs_do(sqlite_uri: str, windows_after: int, status: str) -> None:
    """A handler that returns asked the loop to leave, unless window after window follows."""
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with MetricsTracker("out", every_n_steps=10) as tracker:
            for step in range(15 + 10 * windows_after):
                tracker.log_step(step, 1.0)
                if step == 14:
                    os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    assert MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).info.status == status
