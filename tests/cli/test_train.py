"""``mlflow-ddpm train``: what is certain to fail is found before a run is made; options of ``mlflow run``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_ddpm.cli.main import build_parser, main


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


@pytest.mark.parametrize("problem", [a_file, below_a_file, no_data, torn_data, odd_settings, in_proc])
def test_what_is_certain_to_fail_ends_in_one_line_and_leaves_no_run(
    problem: Callable[[Path], list[str]], tmp_path: Path, sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a run in the store nor files of one."""
    status = main(["train", "--epochs", "1", "--tracking-uri", sqlite_uri, *problem(tmp_path)])

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
    assert "invalid" in capsys.readouterr().err
