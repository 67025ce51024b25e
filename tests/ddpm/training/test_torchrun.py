"""Several processes, started by the real torchrun: one curve, one run, and a bounded end when one of them dies."""

from __future__ import annotations

import csv
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest
from support.torchrun import SMALL, torchrun

from mlflow_ddpm.cli.main import build_parser
from mlflow_ddpm.core.extra_metrics import PIPELINE_METRICS
from mlflow_ddpm.ddpm.config.config import from_options, options
from mlflow_ddpm.ddpm.train import train

# Starts the command as torchrun does by ``-m mlflow_ddpm``, without what follows a training and takes longer than these
# tiny ones; then looks at what the process has loaded.
SCRIPT = """
import os, sys
from mlflow_ddpm.cli import train
from mlflow_ddpm.cli.main import main
train._publish = train._log_model = lambda *_: None
status = main(sys.argv[1:])
assert os.environ["RANK"] == "0" or not [name for name in sys.modules if name.partition(".")[0] == "mlflow"]
sys.exit(status)
"""
FAR = ("--epochs", "100000", "--batch-size", "300")


def rows(directory: Path) -> list[dict[str, str]]:
    """The CSV's rows, read by the standard library."""
    with (directory / "training_metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def told(database: Path) -> list[tuple[str, str | None]]:
    """Status and error type of every run, as the store's tables have them."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as store:
        error = "(select value from tags t where t.run_uuid = r.run_uuid and key = 'error.type')"
        return store.execute(f"select status, {error} from runs r").fetchall()  # noqa: S608 - ours


@pytest.fixture
def script(tmp_path: Path) -> str:
    """The script's path."""
    (tmp_path / "script.py").write_text(SCRIPT)
    return str(tmp_path / "script.py")


@pytest.mark.slow
def test_three_processes_follow_the_curve_of_one(tmp_path: Path, sqlite_uri: str, script: str) -> None:
    """Losses and gradient norms agree to 1e-4, with shares of 500 and 499 images, and of 1 and none in a last batch.

    An epoch has as many images as one process would draw, classes balanced alike, and samples per second are those of
    all ranks. One run; rank 0 alone loads MLflow.
    """
    arguments = [*SMALL, "--epochs", "2", "--batch-size", "1499", "--balance", "classes"]
    arguments += ["--tracking-uri", sqlite_uri]
    args = build_parser().parse_args(arguments)
    config = from_options({option.dest: getattr(args, option.dest) for option in options()})
    train(config, output_dir=tmp_path / "one", tracking_uri=sqlite_uri)
    with torchrun(tmp_path, 3, script, *arguments, "--output-dir", str(tmp_path / "many")) as job:
        job.end()
    assert job.agent.returncode == 0, job.log[-2000:]
    one, many = rows(tmp_path / "one"), rows(tmp_path / "many")

    assert len(one) == len(many) == 2
    insights = [m.name for m in PIPELINE_METRICS if m.category == "Diagnostics" and m.unit != "s"]
    for name in ("loss_mean", "loss_min", "loss_max", "grad_norm", "ema_delta_norm", *insights):
        assert [float(row[name]) for row in one] == pytest.approx([float(row[name]) for row in many], rel=1e-4)
    for row in many:
        assert float(row["samples_per_sec"]) * float(row["epoch_time_sec"]) == pytest.approx(1500)
    assert told(tmp_path / "mlflow.db") == [("FINISHED", None)] * 2


@pytest.mark.slow
def test_when_a_rank_dies_the_job_ends_and_the_run_says_failed(tmp_path: Path, sqlite_uri: str) -> None:
    """Killed: torchrun ends, in seconds, and the run names the rank."""
    command = [*SMALL, *FAR, "--tracking-uri", sqlite_uri, "--output-dir", str(tmp_path / "out")]
    with torchrun(tmp_path, 2, "-m", "mlflow_ddpm", *command) as job:
        job.wait_for_rows(tmp_path / "out" / "training_metrics.csv", 1)
        os.kill(job.pid_of(1), signal.SIGKILL)
        seconds = job.end()

    assert job.agent.returncode != 0
    assert seconds < 60
    assert told(tmp_path / "mlflow.db") == [("FAILED", "PeerLostError")]
    assert "mlflow-ddpm: error: rank 1 died" in job.log


@pytest.mark.slow
def test_a_job_that_is_ended_while_it_waits_for_a_rank_says_killed(tmp_path: Path, sqlite_uri: str) -> None:
    """Rank 1 stands still, so rank 0 waits in a collective and is deaf to SIGTERM; its run is ended all the same."""
    command = [*SMALL, *FAR, "--tracking-uri", sqlite_uri, "--output-dir", str(tmp_path / "out")]
    with torchrun(tmp_path, 2, "-m", "mlflow_ddpm", *command) as job:
        job.wait_for_rows(tmp_path / "out" / "training_metrics.csv", 1)
        os.kill(job.pid_of(1), signal.SIGSTOP)
        time.sleep(1)  # rank 0 reaches the collective
        job.agent.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 29  # torchrun waits for 30 s until it kills
        while told(tmp_path / "mlflow.db")[0][0] == "RUNNING" and time.monotonic() < deadline:
            time.sleep(0.1)

        assert told(tmp_path / "mlflow.db") == [("KILLED", None)]


@pytest.mark.slow
def test_when_rank_0_is_killed_the_same_command_goes_on_as_the_same_run(
    tmp_path: Path, sqlite_uri: str, script: str
) -> None:
    """It could tell nobody, so the run says RUNNING until then; every epoch is there once at the end."""
    command = [*SMALL, "--epochs", "6", "--batch-size", "300", "--tracking-uri", sqlite_uri]
    command += ["--output-dir", str(tmp_path / "out")]
    with torchrun(tmp_path, 2, script, *command) as job:
        job.wait_for_rows(tmp_path / "out" / "training_metrics.csv", 2)
        os.kill(job.pid_of(0), signal.SIGKILL)
        assert job.end() < 60
    assert told(tmp_path / "mlflow.db") == [("RUNNING", None)]
    with torchrun(tmp_path, 2, script, *command) as job:
        job.end()

    assert job.agent.returncode == 0, job.log[-2000:]
    assert told(tmp_path / "mlflow.db") == [("FINISHED", None)]
    assert [row["epoch"] for row in rows(tmp_path / "out")] == [str(epoch) for epoch in range(6)]
