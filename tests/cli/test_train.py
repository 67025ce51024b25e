"""``mlflow-ddpm train``: what is certain to fail is found before a run is made; options of ``mlflow run``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.common import ROOT

from mlflow_ddpm.cli.main import build_parser, main
from mlflow_ddpm.core.formatting import display_path


def a_file(place: Path) -> list[str]:
    """Name a file as the output directory."""
    (place / "taken").write_text("")
    return ["--output-dir", "taken"]


def below_a_file(place: Path) -> list[str]:
    """Name a directory below a file."""
    (place / "taken").write_text("")
    return ["--output-dir", "taken/out"]


def no_data(place: Path) -> list[str]:
    """Name a folder without EMNIST's files."""
    (place / "empty").mkdir()
    return ["--output-dir", "out", "--data", "emnist-mnist", "--data-dir", "empty"]


def torn_data(place: Path) -> list[str]:
    """Name an archive that is none."""
    (place / "gzip.zip").write_bytes(b"no archive")
    return ["--output-dir", "out", "--data", "emnist-mnist", "--data-dir", "gzip.zip"]


def odd_settings(_: Path) -> list[str]:
    """Name settings that do not fit together."""
    return ["--output-dir", "out", "--image-size", "9"]


def in_proc(_: Path) -> list[str]:
    """Name a directory that no one can make."""
    return ["--output-dir", "/proc/nope"]


def a_dangling_link(place: Path) -> list[str]:
    """Name a link to a directory that is gone."""
    (place / "link").symlink_to("gone")
    return ["--output-dir", "link"]


def a_name_that_is_too_long(_: Path) -> list[str]:
    """Name a directory that no file system takes."""
    return ["--output-dir", "a" * 300]


def files_of_others(place: Path) -> list[str]:
    """Name a directory with another program's file of that name."""
    (place / "other").mkdir()
    (place / "other" / "training_metrics.csv").write_text("a,b\n1,2\n")
    return ["--output-dir", "other"]


def no_database(place: Path) -> list[str]:
    """Name a store that is no database; the last ``--tracking-uri`` counts."""
    (place / "text.db").write_text("no database")
    return ["--output-dir", "out", "--tracking-uri", f"sqlite:///{place / 'text.db'}"]


def a_store_below_a_file(place: Path) -> list[str]:
    """Name a store that cannot be made."""
    (place / "taken").write_text("")
    return ["--output-dir", "out", "--tracking-uri", f"sqlite:///{place / 'taken' / 'mlflow.db'}"]


def a_model_name_that_mlflow_refuses(_: Path) -> list[str]:
    """Name a registered model that could only be refused after the training."""
    return ["--output-dir", "out", "--register-model", "team:model"]


PROBLEMS = [
    *(a_file, below_a_file, in_proc, a_dangling_link, a_name_that_is_too_long, files_of_others),
    *(no_data, torn_data, odd_settings, no_database, a_store_below_a_file, a_model_name_that_mlflow_refuses),
]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_is_certain_to_fail_ends_in_one_line_and_leaves_no_run(
    problem: Callable[[Path], list[str]], tmp_path: Path, sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a run in the store nor files of one."""
    try:
        status = main(["train", "--epochs", "1", "--tracking-uri", sqlite_uri, *problem(tmp_path)])
    except SystemExit as end:
        status = int(end.code or 0)

    assert status in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlflow-ddpm: error: ")
    assert MlflowClient(sqlite_uri).search_runs(["0"]) == []
    assert list((tmp_path / "out").glob("*")) == []


def test_an_experiment_that_was_deleted_is_found_before_the_training(
    tmp_path: Path, sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The remedy is in the line; nothing was written."""
    client = MlflowClient(sqlite_uri)
    client.delete_experiment(client.create_experiment("old"))
    status = main(["train", "--experiment-name", "old", "--output-dir", "out", "--tracking-uri", sqlite_uri])

    assert status == 1
    assert "is deleted; restore it with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_further_options_stand_in_one_text(capsys: pytest.CaptureFixture[str]) -> None:
    """As ``mlflow run`` passes them; what is wrong in it is refused as it would be outside."""
    parse = build_parser().parse_args
    arguments = parse(["train", "--blocks=1", '--options=--blocks 2 --data-dir "my data" --resume'])

    assert (arguments.blocks, arguments.data_dir, arguments.resume) == (2, "my data", True)
    assert parse(["train", "--options=none"]).blocks is None
    for text in ("--blocks two", "--nope", "'"):
        with pytest.raises(SystemExit):
            parse(["train", f"--options={text}"])
    assert "expected a whole number" in capsys.readouterr().err


def test_without_its_environment_the_command_ends_in_one_line(tmp_path: Path) -> None:
    """As ``mlflow run --env-manager=local`` does outside of it: no traceback, and the remedy."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "mlflow_ddpm", "train", "--output-dir", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)
    (line,) = done.stderr.splitlines()

    assert done.returncode == 1
    assert line.endswith("has no module torch; activate the environment that mlflow_ddpm is installed in")


def test_paths_are_absolute_under_mlflow_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its working directory is the project's, or that of a clone: a relative path would say nothing to the caller."""
    assert display_path(tmp_path / "out") == "out"
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)

    assert display_path(tmp_path / "out") == display_path(Path("out")) == str(tmp_path / "out")
