"""Every console is written to, whatever characters it has."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from support.common import slow

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.cli.main import main

NAME = "größe łódź"
COMMANDS = [
    ["history", NAME],
    ["history", NAME, "--format", "csv"],
    ["status", NAME],
    ["sync", NAME],
    ["compare", NAME, NAME + "2", "--output-dir", "compared"],
]


@pytest.fixture(autouse=True)
def run_id(sqlite_uri: str) -> str:
    """Directory, run, metric and setting have names that most consoles cannot show."""
    for name in (NAME, NAME + "2"):
        with MetricsTracker(name, run_name=name, config={"größe": "ł"}) as tracker:
            tracker.start_epoch(0)
            tracker.log_batch(1.0)
            tracker.end_epoch(extra={"qualité": 1.0})
    return str(tracker.run_id)


@pytest.mark.usefixtures("one_plot")
@pytest.mark.parametrize("encoding", [slow("ascii"), "cp1252", slow("cp437"), slow("utf-8")])
def test_commands_end_well_on_every_console(encoding: str, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the console has is shown, the rest as escapes, by which a file can be found."""
    for command in [*COMMANDS, ["publish", run_id, "--output-dir", NAME + "3"]]:
        out, err = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding=encoding, errors="strict"))
        monkeypatch.setattr("sys.stderr", io.TextIOWrapper(err, encoding=encoding, errors="strict"))

        assert main(command) == 0, command
        sys.stdout.flush()
        if command[0] in ("status", "publish"):
            assert "größe".encode(encoding, "backslashreplace") in out.getvalue()


@pytest.mark.parametrize(
    "environment",
    [slow({"PYTHONIOENCODING": "ascii"}), {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["PYTHONIOENCODING", "LC_ALL"],
)
def test_a_container_without_a_locale_is_no_error(environment: dict[str, str]) -> None:
    """Errors included: one line, no traceback."""
    for command, status in ((["status", NAME], 0), (["history", "no größe"], 1)):
        done = subprocess.run(
            [sys.executable, "-m", "mlflow_ddpm", *command],
            env={**os.environ, **environment},
            capture_output=True,
            check=False,
        )

        assert (done.returncode != 0) == (status != 0)
        assert b"Traceback" not in done.stderr
