"""Wrong command lines: one line that names the mistake and the nearest right thing, no traceback, no run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.common import slow
from support.wrong_commands import WRONG, Wrong, prepare, run_command

from mlflow_ddpm.cli.main import main

PREFIX = "mlflow-ddpm: error: "


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A directory with a finished run, a file and a damaged directory."""
    directory = tmp_path_factory.mktemp("wrong")
    shutil.copy(empty_database, directory / "mlflow.db")
    prepare(directory)
    return directory


def test_there_are_at_least_forty() -> None:
    """No two are the same."""
    assert len({wrong.words for wrong in WRONG}) == len(WRONG) >= 40


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.words)
def test_a_wrong_command_line_gets_one_line(
    wrong: Wrong, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 2 for a mistake in the call, 1 for what is found later."""
    import shlex

    monkeypatch.chdir(place)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    try:
        status = main(shlex.split(wrong.words))
    except SystemExit as end:
        status = int(end.code or 0)
    printed, lines = capfd.readouterr()

    assert printed == ""
    (line,) = lines.splitlines()
    assert line.startswith(PREFIX)
    assert wrong.message in line
    assert status == wrong.status


def test_no_wrong_command_line_makes_a_run(place: Path) -> None:
    """Problems are found before."""
    (run,) = MlflowClient(f"sqlite:///{place / 'mlflow.db'}").search_runs(["0"])

    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("number", [0, slow(4), slow(24), slow(41)])
def test_a_process_of_its_own_prints_the_same(number: int, place: Path) -> None:
    """Its exit status is that of the table."""
    wrong = WRONG[number]
    done = run_command(wrong.words, place)

    assert (done.returncode, done.stdout) == (wrong.status, "")
    assert done.stderr.startswith(PREFIX)
    assert done.stderr.count("\n") == 1
    assert wrong.message in done.stderr
