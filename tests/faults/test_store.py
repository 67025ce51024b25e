"""A tracking store that fails in every way there is: training does not notice, and nothing is lost."""

from __future__ import annotations

import itertools
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.store_faults import Front, front_of, play, points_in_store, points_on_disk

from mlflow_ddpm.tracking.sync import sync_directory

STALL_SEC = (
    1.0  # far above the 50 ms of the promise: other people's machines are busy, too. The measured one is printed
)
MOMENTS = ("start", "middle", "close")
ALWAYS: list[str | int] = ["refuse", "hang", "cut", 503, "run deleted"]  # one of each kind, at every moment
IN_THE_MIDDLE: list[str | int] = ["slow", "garbage", 500, 401, 429, "experiment deleted"]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds instead of ten for each request, so that a test of thirty outages ends."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def _outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "Training continues" in r.getMessage()]


@pytest.mark.parametrize("fault", ["hang", "garbage", 503, 401])
def test_a_store_that_fails_from_the_start_delays_nothing_and_gets_all_later(
    fault: str | int, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning says what to do; sync creates the run with its own start time, and its end."""
    with front_of() as front, caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        front.become(fault)
        played = play("out", tracking_uri=front.url, close_sec=0.5, config={"lr": 0.1}, tags={"team": "blue"})
    sync_directory(Path("out"), tracking_uri=sqlite_uri)

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    print(f"{fault}: construction {played.construction_sec:.2f} s, largest stall {1e3 * played.stall_sec:.1f} ms")
    assert points_on_disk("out") == points_in_store(sqlite_uri, run.info.run_id)
    assert (run.info.status, run.data.params["lr"], run.data.tags["team"]) == ("FINISHED", "0.1", "blue")
    assert run.info.end_time - run.info.start_time < 1000 * (played.construction_sec + 5)
    assert len(_outages(caplog)) <= 1, _outages(caplog)
    assert "`mlflow-ddpm sync out` sends it" in caplog.text
    assert played.construction_sec < STALL_SEC
    assert played.stall_sec < STALL_SEC
    assert played.close_sec < 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "moment"),
    [*itertools.product(ALWAYS, MOMENTS), *((fault, "middle") for fault in IN_THE_MIDDLE)],
)
def test_whatever_fails_whenever_nothing_is_lost_after_sync(
    fault: str | int, moment: str, server_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The training thread goes on, one warning per outage, close keeps to its time, and sync makes store equal disk."""
    name, client = f"{fault} at {moment}", MlflowClient(server_uri)
    experiment = client.create_experiment(name)
    with front_of(server_uri) as front, caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        break_it, mend_it = _breaker(fault, front, client, experiment)
        if moment == "start":
            break_it()
        when = {"middle": 3, "close": -1}.get(moment)
        played = play(
            "out",
            at=lambda e: break_it() if e == when else None,
            tracking_uri=front.url,
            experiment_name=name,
            close_sec=1,
        )
        mend_it()
        outages = _outages(caplog)
        said = sync_directory(Path("out"), timeout=30)

    runs = client.search_runs([experiment])
    lost = sum(map(len, points_on_disk("out").values())) - sum(
        map(len, points_in_store(server_uri, runs[0].info.run_id).values())
    )
    print(
        f"{name}: construction {played.construction_sec:.2f} s, largest stall {1e3 * played.stall_sec:.1f} ms, "
        f"close {played.close_sec:.2f} s, points lost after sync {lost}; {said}"
    )
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert points_on_disk("out") == points_in_store(server_uri, runs[0].info.run_id)
    assert len(outages) <= 1, outages
    assert any("`mlflow-ddpm sync out` sends it" in record.getMessage() for record in caplog.records)
    assert played.construction_sec < STALL_SEC
    assert played.stall_sec < STALL_SEC
    assert played.close_sec < 1 + STALL_SEC


def _breaker(
    fault: str | int, front: Front, client: MlflowClient, experiment: str
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return how to break the store and how to mend it."""
    if fault == "experiment deleted":
        return lambda: client.delete_experiment(experiment), lambda: client.restore_experiment(experiment)
    if fault == "run deleted":
        deleted: list[str] = []

        def delete() -> None:
            deleted.extend(run.info.run_id for run in client.search_runs([experiment]))
            for run_id in deleted:
                client.delete_run(run_id)
            if not deleted:
                front.become(503)  # no run is there yet at the start: let there be another reason to wait

        def restore() -> None:
            front.become("pass")
            for run_id in deleted:
                client.restore_run(run_id)

        return delete, restore
    return lambda: front.become(fault), lambda: front.become("pass")


@pytest.mark.slow
def test_a_call_that_never_ends_holds_up_neither_close_nor_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The courier hangs in it for a minute; the process is gone long before, and the warning was given."""
    code = """
import sys, time
from support.store_faults import play
played = play("out", tracking_uri=sys.argv[1], close_sec=1)
print(played.construction_sec, played.stall_sec, played.close_sec, time.time())
"""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with front_of() as front:
        front.become("hang")
        command = [sys.executable, "-c", code, front.url]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=50)
        construction, stall, close, ended = map(float, done.stdout.split())
        exit_sec = time.time() - ended

    print(f"hanging for ever: construction {construction:.2f} s, close {close:.2f} s, exit {exit_sec:.2f} s")
    assert construction < 30  # not the call's minute
    assert max(stall, close - 1) < STALL_SEC
    assert exit_sec < 5
    assert done.stderr.count("`mlflow-ddpm sync out`") == 1, done.stderr


@pytest.mark.slow
def test_a_store_that_flaps_gets_every_row_once(
    server_uri: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Moods change every few milliseconds, seeded; answers get lost after the store has acted on them, too."""
    monkeypatch.setattr("mlflow_ddpm.tracking.lane._PAUSES_SEC", (0.02,))  # as many tries as a long run has
    monkeypatch.setattr("mlflow_ddpm.tracking.lane._REST_SEC_MAX", 0.0)
    rng, stop = random.Random(4), threading.Event()  # noqa: S311 - a test's dice
    moods: list[str | int] = ["pass", "pass", "cut", 503, "hang", "refuse", "garbage", 429]
    experiment = MlflowClient(server_uri).create_experiment("flapping")
    with front_of(server_uri) as front, caplog.at_level(logging.WARNING, "mlflow_ddpm"):

        def flap() -> None:
            while not stop.wait(rng.uniform(0.02, 0.3)):
                front.become(rng.choice(moods))

        flapper = threading.Thread(target=flap)
        flapper.start()
        played = play("out", epochs=300, tracking_uri=front.url, experiment_name="flapping")
        stop.set()
        flapper.join()
        front.become("pass")
        requests = front.requests
        sync_directory(Path("out"), timeout=60)

    (run,) = MlflowClient(server_uri).search_runs([experiment])
    print(f"flapping: {requests} requests, {len(_outages(caplog))} outages, stall {1e3 * played.stall_sec:.1f} ms")
    assert points_on_disk("out") == points_in_store(server_uri, run.info.run_id)
    assert played.stall_sec < STALL_SEC


@pytest.mark.slow
def test_a_server_behind_a_token_works_and_the_token_is_nowhere(
    server_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in a file of the output directory nor in a line of the log, with the right token or a wrong one."""
    token = "s3cr3t-t0k3n-of-a-test"  # noqa: S105 - it opens nothing
    experiment = MlflowClient(server_uri).create_experiment("token")
    with front_of(server_uri, token) as front, caplog.at_level(logging.DEBUG):
        front.become("token")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token + "-wrong")
        play("refused", tracking_uri=front.url, experiment_name="token", close_sec=0.5)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
        played = play("out", tracking_uri=front.url, experiment_name="token", config={"a": 1}, close_sec=10)

    (run,) = MlflowClient(server_uri).search_runs([experiment])
    files = [path for where in ("out", "refused") for path in Path(where).rglob("*") if path.is_file()]
    assert played.tracker.run_id == run.info.run_id
    assert points_on_disk("out") == points_in_store(server_uri, run.info.run_id)
    assert [] == [path for path in files if token.encode() in path.read_bytes()]
    assert token not in caplog.text


@pytest.mark.slow
def test_bare_mlflow_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's retries shortened from 7 to 2: one call to a dead server holds the loop for seconds, then raises."""
    import mlflow
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    played = play("out", tracking_uri="http://127.0.0.1:9", close_sec=0.1)
    client = mlflow.MlflowClient("http://127.0.0.1:9")
    began = time.perf_counter()
    with pytest.raises(MlflowException, match="Max retries exceeded"):
        client.log_metric("0" * 32, "loss", 1.0)
    bare = time.perf_counter() - began

    print(
        f"refused port: bare MLflow {bare:.1f} s in one call, then an exception; here {1e3 * played.stall_sec:.1f} ms"
    )
    assert played.stall_sec < STALL_SEC < bare
