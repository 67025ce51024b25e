"""A command of ``mlflow run`` goes back to where its caller stands; real processes, read from /proc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")

_COMMAND = """
import os
from mlflow_ddpm.__main__ import enter_callers_folder
enter_callers_folder()
print(os.getcwd())
"""
_CALLER = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {_COMMAND!r}], cwd='project', check=True)"


def place_of(command: list[str], tmp_path: Path, **env: str) -> Path:
    """Start a program under a name, which starts the command in the folder ``project``; return where that ends up."""
    (tmp_path / "project").mkdir()
    done = subprocess.run(
        command, executable=sys.executable, env={**os.environ, **env}, capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip())


def test_the_command_of_a_project_stands_where_mlflow_run_was_called(tmp_path: Path) -> None:
    """A relative output folder then means what it means to the caller."""
    assert place_of(["mlflow", "-c", _CALLER, "run"], tmp_path, MLFLOW_RUN_ID="ab" * 16) == tmp_path


@pytest.mark.parametrize("command", [["mlflow", "-c", _CALLER, "server"], ["python", "-c", _CALLER, "run"]])
def test_another_program_moves_nothing(command: list[str], tmp_path: Path) -> None:
    """As where a program called ``mlflow.projects.run``."""
    assert place_of(command, tmp_path, MLFLOW_RUN_ID="ab" * 16) == tmp_path / "project"


def test_without_a_run_of_mlflow_nothing_moves(tmp_path: Path) -> None:
    """A command that a person types."""
    assert place_of(["mlflow", "-c", _CALLER, "run"], tmp_path) == tmp_path / "project"
