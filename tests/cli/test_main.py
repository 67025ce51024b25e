"""The command line, as people call it: in a process of its own."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.common import ROOT

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.cli.main import build_parser, main
from mlflow_ddpm.ddpm.config.config import options

COMMANDS = ("train", "sample", "publish", "download", "compare", "history", "sync", "status")
SMALL = [
    *("--epochs", "2", "--base-channels", "8", "--channel-mults", "1", "--attention-size", "0", "--batch-size", "512"),
    *("--sample-steps", "2", "--eval-per-class", "1", "--sample-every", "0"),
]
UNJUDGED = [*SMALL, "--eval-per-class", "0"]  # two seconds less, where the judge has nothing to do with it


def _run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlflow_ddpm", *arguments]
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
    )


def _help(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        build_parser().parse_args([command, "--help"])
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example_and_stands_in_the_docs(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--help`` answers what a user would ask next."""
    text = _help(command, capsys)

    assert f"example: mlflow-ddpm {command} " in text
    assert f"mlflow-ddpm {command}" in (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")


def test_every_training_option_tells_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    """In the words in which it would be typed."""
    text = _help("train", capsys)

    for option in options():
        assert option.flag in text
        assert f"(default: {option.default_text})" in text


@pytest.mark.slow
def test_training_ends_with_where_everything_is_and_how_to_look_at_it() -> None:
    """One line an epoch away from a terminal; the files, the run and the command that opens the UI at the end."""
    done = _run("train", *SMALL)

    (run,) = MlflowClient(f"sqlite:///{Path('mlflow.db').resolve()}").search_runs(["0"])
    assert done.returncode == 0, done.stderr
    epochs = [line for line in done.stderr.splitlines() if line.startswith("epoch ")]
    assert ["epoch 0 (1 of 2)", "epoch 1 (2 of 2)"] == [line.split("  ")[0] for line in epochs]
    assert "loss_mean 0." in epochs[0] or "loss_mean 1." in epochs[0]
    assert "samples/s" in epochs[0]
    assert "Traceback" not in done.stderr
    assert "runs/digits/training_report.md" in done.stdout
    assert "mlflow ui --backend-store-uri sqlite:///mlflow.db" in done.stdout
    assert run.info.run_id in done.stdout
    assert run.info.status == "FINISHED"
    assert Path("runs/digits/training_dashboard.png").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("one_plot")
def test_a_finished_training_takes_more_epochs_if_asked(sqlite_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the option, and the option works."""
    assert main(["train", "--output-dir", "out", *UNJUDGED]) == 0
    assert main(["train", "--output-dir", "out", *UNJUDGED, "--epochs", "3"]) == 2
    assert "--resume" in capsys.readouterr().err

    assert main(["train", "--output-dir", "out", *UNJUDGED, "--epochs", "3", "--resume"]) == 0

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    assert [0, 1, 2] == [p.step for p in MlflowClient(sqlite_uri).get_metric_history(run.info.run_id, "lr")]


@pytest.mark.slow
@pytest.mark.usefixtures("one_plot")
def test_a_second_training_gets_a_directory_of_its_own(sqlite_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is overwritten unasked."""
    assert [main(["train", *UNJUDGED]), main(["train", *UNJUDGED])] == [0, 0]

    assert "runs/digits-2/training_report.md" in capsys.readouterr().out


@pytest.fixture
def run_id(sqlite_uri: str) -> str:
    """A finished run of two epochs, with its output in ``out``."""
    with MetricsTracker("out") as tracker:
        for epoch in range(2):
            tracker.start_epoch(epoch)
            tracker.log_batch(1 / 3 + epoch, lr=0.1)
            tracker.end_epoch(extra={"fid": 2.5} if epoch else None)
    return str(tracker.run_id)


@pytest.mark.usefixtures("one_plot")
def test_publish_renders_and_uploads_a_run_by_its_id(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From any directory that reaches the store."""
    assert main(["publish", run_id, "--output-dir", "elsewhere"]) == 0

    assert "elsewhere/training_report.md" in capsys.readouterr().out
    assert Path("elsewhere/training_report.md").exists()


def test_history_prints_a_table_or_the_csv_itself(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The CSV is the mirror's, to the byte; the table has what was measured."""
    assert main(["history", run_id, "--format", "csv"]) == 0
    assert capsys.readouterr().out == Path("out/training_metrics.csv").read_text(encoding="utf-8")

    assert main(["history", "out"]) == 0
    table = capsys.readouterr().out
    assert table.split()[:2] == ["epoch", "loss_mean"]
    assert "gpu_peak_mb" not in table

    assert main(["history", "out", "--columns", "epoch,fid", "--format", "csv"]) == 0
    assert [["epoch", "fid"], ["0", ""], ["1", "2.5"]] == list(csv.reader(io.StringIO(capsys.readouterr().out)))


def test_sync_says_what_became_of_each_directory(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Here nothing was left to send."""
    assert main(["sync", "out"]) == 0

    assert f"out: run {run_id} was complete in MLflow (2 rows)" in capsys.readouterr().out


@pytest.mark.usefixtures("run_id")
@pytest.mark.parametrize("name", ["status", "sync"])
def test_each_of_several_directories_is_answered_for(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Bad ones get a line each, whatever is wrong, and do not hide the good ones after them."""
    Path("empty").mkdir()
    Path("file").write_text("")

    assert main([name, "nowhere", "empty", "out", "./file", "out"]) == 1

    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len([line for line in printed.out.splitlines() if line.startswith("out")]) == 2
    assert [line.split()[2] for line in lines if "error" in line] == ["nowhere", "empty", "file"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["history", "no/where"], 1, "no such file or directory: no/where"),
        (["publish", "0123456789abcdef0123456789abcdef"], 1, "0123456789abcdef0123456789abcdef"),
        (["history", "out", "--columns", "lss"], 2, "no column lss; there are epoch, loss_mean"),
        (["train", "--lr", "-1"], 2, "--lr must be > 0, got -1"),
        (["train", "--data", "emnist-mnist", "--data-dir", "no/where"], 1, "no/where"),
        (["train", "--output-dir", "out"], 2, "holds the finished run"),
        (["sync", "elsewhere"], 1, "elsewhere is not the output directory of a training run"),
    ],
)
def test_bad_input_gets_one_line_and_a_non_zero_exit(
    run_id: str, arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Never a traceback, and nothing is lost."""
    code = main(arguments)

    lines = capsys.readouterr().err.strip().splitlines()
    assert code == status
    assert len(lines) == 1, lines
    assert lines[0].startswith("mlflow-ddpm: error: ")
    assert says in lines[0]


def test_an_unknown_option_is_refused_by_name() -> None:
    """In one line, with the nearest right one."""
    done = _run("train", "--epoch-count", "3")

    assert done.returncode == 2
    assert done.stderr == "mlflow-ddpm: error: train has no option --epoch-count; did you mean --epochs?\n"


@pytest.mark.slow
def test_a_model_too_large_for_the_memory_ends_in_one_line() -> None:
    """Before a run is made; the line names the options that decide, and the dry run that estimates them."""
    command = f"ulimit -v 6000000; {sys.executable} -m mlflow_ddpm train --base-channels 4096 --output-dir out"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True, timeout=300)

    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "out of memory (" in done.stderr
    assert "choose a smaller --batch-size or --base-channels: --dry-run estimates" in done.stderr
    assert not Path("mlruns").exists()
