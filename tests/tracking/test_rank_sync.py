"""Ranks that agree: real processes, a real group, and calls that do not match."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from support.common import ROOT
from support.torchrun import torchrun

from mlflow_ddpm import MetricsTracker, read_history
from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.errors import PeerLostError, UsageError
from mlflow_ddpm.core.formatting import first_line
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.tracking import rank_sync
from mlflow_ddpm.tracking.rank_sync import RankSync

BAD_BATCH = RunOutcome("FAILED", "ValueError", "bad batch")

GROUP = """
import os, sys, time
import torch
import torch.distributed as dist
from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking import rank_sync

dist.init_process_group("gloo")
rank = dist.get_rank()
"""

AGREE = (
    GROUP
    + """
with MetricsTracker("out") as tracker:
    first = tracker.next_epoch
    tracker.start_epoch(first)
    tracker.log_batch(1.0)
    tracker.end_epoch()
    print(f"rank {rank} of two: {first} then {tracker.next_epoch}", flush=True)
with MetricsTracker("out", resume=True) as tracker:
    print(f"rank {rank} again: {tracker.next_epoch}", flush=True)
dist.destroy_process_group()
"""
)

ALONE = (
    GROUP
    + """
rank_sync._TIMEOUT_SEC = float(sys.argv[1])
tracker = MetricsTracker("out", reduce_over_ranks=True)
dist.barrier()
for epoch in range(4):
    tracker.start_epoch(epoch)
    tracker.log_batch(float(rank), batch_size=4)
    for attempt in range(2 if epoch == 3 else 1):
        if rank == 0 or epoch < 3:
            began = time.monotonic()
            try:
                tracker.end_epoch()
            except UsageError as error:
                print(f"raised after {time.monotonic() - began:.0f} s: {error}", flush=True)
dist.barrier()
print("left", [key for key in tracker._peers._keys(1) if rank_sync._group_store().check([key])], flush=True)
tracker.close()
"""
)

FAILED = (
    GROUP
    + """
def train(name, every, then):
    with MetricsTracker(name, reduce_over_ranks=True, every_n_steps=every) as tracker:
        for step in range(4):
            if rank == 1 and step == 3:
                raise ValueError(f"bad batch of {name}")
            tracker.log_step(step, 1.0)
            if step == 2:
                then()

began = time.monotonic()
try:
    train("barrier", 2, lambda: None)
except Exception as error:
    print(f"rank {rank}: {type(error).__name__}", flush=True)
print(f"after {time.monotonic() - began:.0f} s", flush=True)
train("signal", 3, lambda: rank or time.sleep(60))
"""
)

DTENSOR = (
    GROUP
    + """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
plain = [p.detach().clone().requires_grad_() for p in model.parameters()]
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
x = torch.arange(8.0).reshape(2, 4)
with MetricsTracker("out") as tracker:
    tracker.start_epoch(0)
    for _ in range(3):
        model.zero_grad()
        model(x).square().mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        assert isinstance(norm, DTensor)
        tracker.log_batch(norm, lr=0.1, grad_norm=norm, batch_size=2)
    row = tracker.end_epoch(extra={"norm": norm})
expected = float(norm.full_tensor())
if rank == 0:
    assert abs(row.grad_norm - expected) < 1e-6, (row, expected)
    assert abs(row.loss_mean - expected) < 1e-6 and abs(row.extra["norm"] - expected) < 1e-6
print(f"rank {rank} is right", flush=True)
dist.destroy_process_group()
"""
)

LEAVES = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from torch.distributed import TCPStore
from mlflow_ddpm.tracking import rank_sync

# A request is on its way nearly always.
rank_sync.time = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
reader, writer = os.pipe()
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        rank_sync._group_store = lambda: store
        os.write(writer, b"x")
        rank_sync.RankSync(Path("out"), reduces=True).wait_for_all()
    os.read(reader, 1)
    children.append(child)
time.sleep(0.05)
for child in children:
    os.kill(child, signal.SIGTERM)
for child in children:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, list[threading.Thread]]]:
    """The process that hosts the store of this one, and the threads whose requests it got."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        mine = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(writer, f"{mine.port:5}".encode())
        signal.pause()
    store = TCPStore("127.0.0.1", int(os.read(reader, 5)), is_master=False)
    threads: list[threading.Thread] = []

    def request(name: str, *arguments: object) -> object:
        threads.append(threading.current_thread())
        return getattr(store, name)(*arguments)

    spied = SimpleNamespace(**{name: partial(request, name) for name in ("check", "compare_set", "get", "set")})
    monkeypatch.setattr(rank_sync, "_group_store", lambda: spied)
    yield pid, threads
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)


def _run(code: str, place: Path, *arguments: str) -> tuple[str, int | None]:
    script = place / "program.py"
    script.write_text(code, encoding="utf-8")
    with torchrun(place, 2, str(script), *arguments) as job:
        job.end()
        return job.log, job.agent.returncode


@pytest.mark.slow
def test_the_next_epoch_is_the_same_on_every_rank(sqlite_uri: str, tmp_path: Path) -> None:
    """Rank 0 alone reads the directory; the others ask it, before and after a resume."""
    log, code = _run(AGREE, tmp_path)

    assert code == 0, log
    for rank in (0, 1):
        assert f"rank {rank} of two: 0 then 1" in log
        assert f"rank {rank} again: 1" in log


def test_without_a_group_the_next_epoch_raises_on_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default would let the ranks drift apart."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(UsageError, match="next_epoch is known on rank 0 alone"):
        _ = MetricsTracker("out").next_epoch


@pytest.mark.parametrize(
    "names",
    [("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMIX_RANK",)],
)
def test_tasks_that_a_launcher_numbers_are_told_why_they_record_nothing(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sqlite_uri: str
) -> None:
    """A sweep under srun would lose all runs but one; the way out that the line names works."""
    for name, value in zip(names, ("2", "4"), strict=False):
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        MetricsTracker("out").close()
    (line,) = [record.getMessage() for record in caplog.records]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    MetricsTracker("mine", tracking_uri=sqlite_uri).close()

    assert f"{names[0]}=2 makes it rank 2{' of 4' if names[1:] else ''}, and" in line
    assert "RANK=0 WORLD_SIZE=1" in line
    assert not Path("out").exists()
    assert Path("mine/training_metrics.json").exists()


def test_ranks_of_torchrun_are_silent_until_an_epoch_ends_without_a_group(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are one training by intent; a sweep under torchrun is not, and would lose all runs but one."""
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    tracker = MetricsTracker("out")
    assert not caplog.records
    for epoch in range(2):
        tracker.start_epoch(epoch)
        tracker.log_batch(1.0, lr=0.1, grad_norm=1.0, batch_size=1)
        tracker.end_epoch()
    tracker.close()

    assert ["RANK=2 makes it rank 2 of 4" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("rank", ["0", "2"])
def test_ranks_of_an_unknown_number_reduce_nothing_until_there_is_a_group(
    rank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would wait for another number of ranks."""
    monkeypatch.setenv("PMIX_RANK", rank)
    with pytest.raises(UsageError, match="needs the number of ranks, which PMIX_RANK alone does not give"):
        MetricsTracker("out", reduce_over_ranks=True)
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", rank)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")

    assert RankSync(Path("out"), reduces=True).reduces
    assert not Path("out").exists()


@pytest.mark.parametrize("method", ["wait_for_all", "next_epoch"])
def test_a_rank_that_failed_is_named_to_those_that_wait(method: str, two_ranks: None) -> None:
    """At once, each time anew: an error that is raised again keeps the frames of every raise."""
    peers = RankSync(Path("out"), reduces=True)
    peers.publish_failure(1, BAD_BATCH)
    errors = []
    for _ in range(2):
        with pytest.raises(PeerLostError, match="rank 1 ended with ValueError: bad batch") as caught:
            getattr(peers, method)()
        errors.append(caught.value)

    assert errors[0] is not errors[1]


def test_an_attempt_that_failed_leaves_the_next_one_alone(two_ranks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent of torchrun restarts the ranks, and keeps the store of the first attempt."""
    monkeypatch.setattr(rank_sync, "_TIMEOUT_SEC", 0.01)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    peers = RankSync(Path("torchrun"), reduces=True)
    peers.publish_next_epoch(0)
    peers.publish_failure(1, BAD_BATCH)
    monkeypatch.setattr(rank_sync, "_trackers", Counter[str]())  # as in new processes
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    peers = RankSync(Path("torchrun"), reduces=True)

    assert peers.lost_rank() is None
    with pytest.raises(UsageError, match="opened no tracker"):
        peers.next_epoch()


def test_nodes_that_count_restarts_differently_meet(two_ranks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent counts the failures of its own ranks; a store that is not the agent's is new at each attempt."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    RankSync(Path("nodes"), reduces=False).publish_next_epoch(3)
    monkeypatch.setattr(rank_sync, "_trackers", Counter[str]())  # as in another process
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(rank_sync, "_TIMEOUT_SEC", 0.01)

    assert RankSync(Path("nodes"), reduces=False).next_epoch() == 3


@pytest.mark.parametrize(("end", "patience"), [(signal.SIGKILL, 10.0), (signal.SIGSTOP, 0.001)])
def test_a_store_without_an_answer_holds_nothing_up(
    end: signal.Signals, patience: float, host: tuple[int, list[threading.Thread]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host may have ended, be stopped or unreachable. Whoever waits for ranks gets an error, each time at once.

    No request is made on the thread of the training, not even a second time.
    """
    pid, threads = host
    monkeypatch.setattr(rank_sync, "_TIMEOUT_SEC", patience)
    monkeypatch.setattr(rank_sync, "_END_SEC", patience)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    peers = RankSync(Path("out"), reduces=True)
    os.kill(pid, end)
    peers.publish_next_epoch(0)
    peers.publish_failure(1, BAD_BATCH)
    assert peers.lost_rank() is None

    for method in (peers.next_epoch, peers.wait_for_all, peers.next_epoch):
        with pytest.raises(PeerLostError, match=r"the store of the process group does not answer .*has ended or hangs"):
            method()
    assert threading.main_thread() not in threads


def test_an_error_that_is_not_the_stores_is_not_blamed_on_its_host(
    two_ranks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program's own mistake would be looked for in the network."""
    monkeypatch.setattr(rank_sync, "_group_store", lambda: SimpleNamespace(check=lambda _: int("a mistake")))

    with pytest.raises(ValueError, match="a mistake"):
        RankSync(Path("out"), reduces=True).next_epoch()


@pytest.mark.parametrize("method", ["wait_for_all", "next_epoch"])
def test_a_signal_ends_the_wait_and_leaves_no_thread_at_it(method: str, two_ranks: None) -> None:
    """A thread would ask on for 45 s, and blame a rank for not having come."""
    before = set(threading.enumerate())
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        peers = RankSync(Path("out"), reduces=True)
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        with pytest.raises(KeyboardInterrupt):
            getattr(peers, method)()
    finally:
        signal.signal(signal.SIGALRM, handler)
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(0.5)

    assert not any(thread.is_alive() for thread in left)


@pytest.mark.slow
def test_sigterm_during_the_wait_ends_the_process_as_it_should(tmp_path: Path) -> None:
    """A thread that is inside of the store when the interpreter ends would abort it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RANK": "0", "WORLD_SIZE": "2"}
    job = subprocess.run(
        [sys.executable, "-c", LEAVES],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert job.stdout.split() == ["143"] * 3, job.stderr


@pytest.mark.parametrize(
    ("failure", "error"),
    [(UsageError("got [3, 4]"), UsageError), (RuntimeError("Connection reset\nby peer"), PeerLostError)],
)
def test_a_collective_that_failed_is_not_tried_again(
    failure: Exception, error: type[Exception], two_ranks: None
) -> None:
    """The others would not come to it: close() would wait for them."""
    calls: list[int] = []

    def exchange() -> None:
        calls.append(1)
        raise failure

    peers = RankSync(Path("out"), reduces=True)
    rank_sync._group_store().set(peers._keys(1)[2], "")  # the other rank comes
    for _ in range(2):
        with pytest.raises(error, match=re.escape(first_line(failure))):
            peers.together(exchange)

    assert len(calls) == 1


def test_a_group_that_is_made_after_the_tracker_is_not_reduced_over_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process took itself for the only one; what it recorded would be its own losses."""
    peers = RankSync(Path("out"), reduces=True)
    peers.require_known_world()
    monkeypatch.setattr(ranks, "world_size", lambda: 2)
    with pytest.raises(UsageError, match=r"call torch\.distributed\.init_process_group before"):
        peers.require_known_world()


def test_a_forked_process_leaves_the_store_of_its_parent_alone(two_ranks: None) -> None:
    """They share a socket: each would read the other's answers."""
    peers = RankSync(Path("out"), reduces=True)
    peers.publish_failure(1, BAD_BATCH)
    child = os.fork()
    if not child:
        try:
            peers.wait_for_all()
        except UsageError:
            os._exit(0 if peers.lost_rank() is None else 1)
        finally:
            os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert peers.lost_rank() == "rank 1 ended with ValueError: bad batch"


@pytest.mark.slow
def test_an_epoch_that_rank_0_alone_ends_is_an_error_and_no_hang(sqlite_uri: str, tmp_path: Path) -> None:
    """The usual mistake is a call behind ``if is_main_process``."""
    log, code = _run(ALONE, tmp_path, "3")

    assert code == 0, log
    assert re.findall(r"raised after (\d+) s", log) in (["3", "0"], ["4", "0"])  # what failed is not waited for again
    assert "rank 1 did not end this epoch within 3 s of rank 0; with reduce_over_ranks=True every rank must" in log
    assert log.count("left []") == 2  # the store's host keeps nothing of the first epoch
    assert list(read_history("out")["epoch"]) == [0, 1, 2]


@pytest.mark.slow
def test_when_another_rank_raises_the_run_has_failed_and_names_its_error(sqlite_uri: str, tmp_path: Path) -> None:
    """Rank 0 waits for it at the end of a window, and later on is ended by the launcher's SIGTERM."""
    log, code = _run(FAILED, tmp_path)
    ends, rows = {}, {}
    for name in ("barrier", "signal"):
        run_id = json.loads(Path(name, "training_metrics.json").read_text(encoding="utf-8"))["run"]["run_id"]
        run = MlflowClient(sqlite_uri).get_run(run_id)
        ends[name] = (run.info.status, run.data.tags["error.type"], run.data.tags["error.message"])
        rows[name] = list(read_history(run_id)["epoch"])

    assert code == 1, log
    assert rows == {"barrier": [2, 4], "signal": [3]}
    assert ends == {
        name: ("FAILED", "PeerLostError", f"rank 1 ended with ValueError: bad batch of {name}") for name in ends
    }
    waits = re.findall(r"after (\d+) s", log)
    assert len(waits) == 2
    assert all(int(seconds) < 30 for seconds in waits)


@pytest.mark.slow
def test_a_dtensor_is_a_scalar_like_any_other(sqlite_uri: str, tmp_path: Path) -> None:
    """``clip_grad_norm_`` returns one under FSDP2, spread over the ranks."""
    log, code = _run(DTENSOR, tmp_path)

    assert code == 0, log
    assert log.count("is right") == 2
