"""SIGKILL at seeded instants: no completed epoch is lost, none is doubled, no file is ever broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.common import ROOT

KILLS = int(os.environ.get("MLFLOW_DDPM_TEST_KILLS", "40"))  # 200 for whoever has four minutes


def _kill(what: str, kills: int, database: Path) -> dict[str, int]:
    """Return the figures of that many kills, and print them."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "kill_trials.py"), what, "--kills", str(kills)]
    env = {
        **os.environ,
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    env |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
    done = subprocess.run(
        [*command, "--database", str(database)],
        check=False,
        capture_output=True,
        text=True,
        env=env,
        timeout=60 + 10 * kills,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(f"{what}: {found}")
    return found


def _check_training(found: dict[str, int], kills: int) -> None:
    assert found["kills"] >= kills
    assert {"lost": 0, "duplicated": 0, "invalid": 0, "in_store_wrong": 0} == {
        key: found[key] for key in ("lost", "duplicated", "invalid", "in_store_wrong")
    }


@pytest.mark.slow
def test_a_training_killed_again_and_again_loses_and_doubles_no_epoch(empty_database: Path) -> None:
    """At any instant, inside writes too; the files are valid at that instant, and the resumed run reads as one."""
    _check_training(_kill("training", KILLS, empty_database), KILLS)


@pytest.mark.slow
def test_a_sync_killed_again_and_again_makes_the_store_equal_to_the_disk(empty_database: Path) -> None:
    """One run, each point and each picture once, in a sqlite store and in a file store."""
    found = _kill("sync", 20, empty_database)

    assert found["kills"] >= 20
    assert (found["points_wrong"], found["runs_too_many"], found["images_wrong"]) == (0, 0, 0)
