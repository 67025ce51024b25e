"""Trainings in Lightning, transformers and Accelerate that are killed, fail and continue: one run, and its status."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from mlflow import MlflowClient
from support.common import ROOT

pytestmark = pytest.mark.slow
_SUPPORT = ROOT / "tests" / "support"


class Ended(NamedTuple):
    """How a process ended, and what it printed."""

    status: int
    log: str


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}


def _run_alone(*arguments: str, launcher: tuple[str, ...] = (), script: str = "framework_loops.py") -> Ended:
    command = [sys.executable, *launcher, str(_SUPPORT / script), *arguments]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=300, check=False)
    return Ended(done.returncode, done.stderr)


@pytest.fixture(scope="module")
def forker() -> Iterator[subprocess.Popen[str]]:
    """A process that has imported the frameworks and forks a training for each line."""
    command = [sys.executable, str(_SUPPORT / "framework_loops.py"), "--serve"]
    with subprocess.Popen(
        command, env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.fixture
def run(forker: subprocess.Popen[str]) -> Callable[..., Ended]:
    """Return what runs a training in a process of its own."""

    def run(*arguments: str) -> Ended:
        assert forker.stdin
        assert forker.stdout
        forker.stdin.write(json.dumps([str(Path.cwd()), _environment(), arguments]) + "\n")
        forker.stdin.flush()
        return Ended(int(forker.stdout.readline()), Path("log.txt").read_text(encoding="utf-8"))

    return run


def _seen(rank: str = "") -> list[float]:
    paths = [Path(f"seen{rank}.txt"), Path("seen.txt")]  # Lightning's main process has no LOCAL_RANK
    path = next(path for path in paths if path.exists())
    return [float(line) for line in path.read_text(encoding="utf-8").split()]


def _rows() -> list[dict[str, str]]:
    with Path("out/training_metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _statuses(uri: str) -> list[str]:
    return [run.info.status for run in MlflowClient(uri).search_runs(["0"])]


@pytest.mark.parametrize(
    ("end", "arguments"),
    [
        ("SIGTERM", ("lightning", "--mlflow")),
        ("SIGINT", ("lightning",)),
        ("error", ("lightning", "--mlflow")),
        ("SIGINT", ("transformers", "--mlflow")),
        ("error", ("transformers", "--mlflow")),
    ],
)
def test_a_training_ended_inside_an_epoch_is_continued_in_one_run(
    sqlite_uri: str, run: Callable[..., Ended], arguments: tuple[str, ...], end: str
) -> None:
    """Killed or failed in epoch 1's second step: the status is so; resumed, its row is marked as partial."""
    ended = run(*arguments, "--end", end, "--at", "12")

    assert ended.status != 0
    assert _statuses(sqlite_uri) == ["FAILED" if end == "error" else "KILLED"]
    assert [row["epoch"] for row in _rows()] == ["0"]
    assert float(_rows()[0]["loss_mean"]) == pytest.approx(_mean(_seen()[:7]), rel=1e-5)

    resumed = run(*arguments, "--resume")
    rows, count = _rows(), len(_seen()) - 12  # Lightning does not skip the batches that were done, transformers does

    assert resumed.status == 0, resumed.log
    assert [(row["epoch"], row["partial"], row["batches"]) for row in rows] == [("0", "0", "7"), ("1", "1", str(count))]
    assert float(rows[1]["loss_mean"]) == pytest.approx(_mean(_seen()[12:]), rel=1e-5)
    assert float(rows[1]["lr"]) == pytest.approx(0.1 * 0.9**5)
    assert _statuses(sqlite_uri) == ["FINISHED"]


@pytest.mark.parametrize("framework", ["lightning", "transformers", "accelerate"])
def test_a_training_ended_inside_a_window_is_continued_in_one_run(
    sqlite_uri: str, run: Callable[..., Ended], framework: str
) -> None:
    """Killed in step 5, after the window of steps 3 and 4; the next window is whole, the step is done again."""
    run(framework, "--every", "2", "--end", "SIGTERM", "--at", "12")

    assert _statuses(sqlite_uri) == ["KILLED"]
    assert [row["epoch"] for row in _rows()] == ["2", "4"]

    run(framework, "--every", "2", "--resume")
    rows = _rows()

    assert [(row["epoch"], row["partial"]) for row in rows] == [("2", "0"), ("4", "0"), ("6", "0")]
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.1 * 0.9**n for n in (1, 3, 5)])
    assert _statuses(sqlite_uri) == ["FINISHED"]


def test_lightning_killed_between_an_epochs_last_checkpoint_and_its_end_has_each_row(
    sqlite_uri: str, run: Callable[..., Ended]
) -> None:
    """As where a callback samples then: a resume from the checkpoint does not do the epoch again."""
    run("lightning", "--kill-after", "0")

    assert [row["epoch"] for row in _rows()] == ["0"]

    run("lightning", "--resume")

    assert [(row["epoch"], row["partial"], row["batches"]) for row in _rows()] == [("0", "0", "7"), ("1", "0", "7")]
    assert _statuses(sqlite_uri) == ["FINISHED"]


def test_a_training_in_accelerate_that_fails(sqlite_uri: str, run: Callable[..., Ended]) -> None:
    """The exception is not Accelerate's to see: the interpreter ends with it, and the run as FAILED."""
    run("accelerate", "--end", "error", "--at", "12")

    assert _statuses(sqlite_uri) == ["FAILED"]


@pytest.mark.parametrize(
    ("launcher", "arguments"),
    [
        (("-m", "torch.distributed.run", "--nproc-per-node", "2"), ("accelerate",)),
        (("-m", "torch.distributed.run", "--nproc-per-node", "2"), ("transformers", "--mlflow")),
        ((), ("lightning", "--devices", "2", "--mlflow")),
    ],
)
def test_two_processes_make_one_run(sqlite_uri: str, launcher: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Rank 0 records its own losses; samples count those of both."""
    done = _run_alone(*arguments, launcher=launcher)

    assert done.status == 0, done.log[-2000:]
    assert _statuses(sqlite_uri) == ["FINISHED"]
    assert sum(int(row["batches"]) for row in _rows()) == len(_seen("0"))
    means = [float(row["loss_mean"]) * int(row["batches"]) for row in _rows()]
    assert sum(means) == pytest.approx(sum(_seen("0")), rel=1e-5)
    assert len(_seen("1")) == len(_seen("0"))


def test_sharded_parameters_end_in_one_warning_and_the_norm_is_right(sqlite_uri: str) -> None:
    """FSDP2 on two ranks: a distance measured on rank 0 alone would be a collective that the other never enters."""
    done = _run_alone(launcher=("-m", "torch.distributed.run", "--nproc-per-node", "2"), script="sharded_ranks.py")
    expected = json.loads(Path("expected.json").read_text(encoding="utf-8"))

    assert done.status == 0, done.log[-2000:]
    assert done.log.count("sharded over the ranks") == 1
    assert "sharded over the ranks" in expected["flat"]
    assert expected["replicated"] == pytest.approx(0.1 * math.sqrt(20), rel=1e-6)
    assert [row["ema_delta_norm"] for row in _rows()] == ["", ""]
    norms = [_mean(expected["norms"][:3]), _mean(expected["norms"][3:])]
    assert [float(row["grad_norm"]) for row in _rows()] == pytest.approx(norms, rel=1e-5)
    assert _statuses(sqlite_uri) == ["FINISHED"]
