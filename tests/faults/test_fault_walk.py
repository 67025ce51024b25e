"""Random walks of faults end with CSV, JSON and store equal; ``tests/support/fault_walk.py`` walks further by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.common import ROOT


@pytest.mark.slow
def test_twenty_walks_of_faults_end_with_one_row_an_epoch_everywhere() -> None:
    """In a process of its own, which forks the trainings."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "fault_walk.py"), "--walks", "20", "--seed", "1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1500)

    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "20 walks, 0 wrong" in done.stdout
