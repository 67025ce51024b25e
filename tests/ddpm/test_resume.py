"""SIGKILL at any moment and the same command again: the finished run is, bit for bit, the undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.common import ROOT

RUNS = int(os.environ.get("MLFLOW_DDPM_TEST_KILLED_RUNS", "1"))  # each dies three to seven times


@pytest.mark.slow
def test_a_training_killed_again_and_again_ends_as_if_nothing_had_happened() -> None:
    """While a checkpoint is written, between row and checkpoint, while publishing, and at random moments.

    Model, weight average, optimiser, step, CSV rows but for times, sample grids, model.safetensors and MLflow's history
    are those of a run that nobody killed. The first life is a process of its own, the others are forks that run the
    same command.
    """
    env = {
        **os.environ,
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
    }
    command = [sys.executable, str(ROOT / "tests" / "support" / "kill_ddpm.py"), "--runs", str(RUNS)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=120 + 120 * RUNS)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])

    assert {"models_differ": 0, "rows_differ": 0, "files_differ": 0, "store_differs": 0} == {
        key: found[key] for key in ("models_differ", "rows_differ", "files_differ", "store_differs")
    }
    assert found["kills"] >= 3 * RUNS
    assert found["in_a_checkpoint"] >= RUNS
    assert found["between_row_and_checkpoint"] >= RUNS
    assert found["while_publishing"] >= RUNS
