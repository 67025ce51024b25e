"""Random walks of faults end with CSV, JSON and store equal; ``tests/support/fault_walk.py`` walks further by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.common import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 11])
def test_twenty_walks_of_faults_end_with_one_row_an_epoch_everywhere(seed: int) -> None:
    """Ten from each seed, mostly waiting; each ten in a process of its own, which forks the trainings."""
    script = str(ROOT / "tests" / "support" / "fault_walk.py")
    command = [sys.executable, script, "--walks", "10", "--seed", str(seed)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)

    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "10 walks, 0 wrong" in done.stdout
