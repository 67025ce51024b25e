"""Servers of other versions than ours: the one before 3.0, and the newest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("version", ["2.22.5", "3.17.2"])
def test_every_operation_works_on_a_server_of_that_version(version: str) -> None:
    """MLFLOW_DDPM_COMPAT_CACHE names a folder that keeps the servers' environments."""
    script = Path(__file__).parent / "servers.py"
    cache = os.environ.get("MLFLOW_DDPM_COMPAT_CACHE")
    command = [sys.executable, str(script), version, *(["--cache", cache] if cache else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)

    assert done.returncode == 0, done.stdout[-3000:]
