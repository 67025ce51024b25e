"""The source distribution holds what its own tests need."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support.common import ROOT

pytestmark = pytest.mark.slow
_BUILD = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"


def test_the_sdist_runs_its_own_tests(tmp_path: Path) -> None:
    """Unpacked somewhere else: helpers, fixtures, golden files, documents and MLproject are there."""
    pytest.importorskip("setuptools", minversion="77", reason="needs setuptools>=77: pip install 'setuptools>=77'")
    copy = tmp_path / "checkout"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=False, capture_output=True).stdout.decode()
    if not files:
        pytest.skip("needs a git checkout: this is an sdist itself")
    for name in files.split("\0")[:-1]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-c", _BUILD, str(tmp_path)], cwd=copy, check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.glob("mlflow_ddpm-*") if path.is_dir())
    files_to_test = ["tests/project/test_mlproject.py", "tests/doors/test_report.py"]
    for words in (["--collect-only"], files_to_test):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n0", *words],
            cwd=unpacked,
            env={**os.environ, "PYTHONPATH": str(unpacked)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:]
