"""Run the quick tests with the lowest versions that pyproject.toml allows: ``python tests/compat/lowest.py``.

The environment is made in a temporary folder, or in the one that ``--dir`` names, on the Python that runs this; it
should be 3.11, the lowest. Other arguments go to pytest. Without ``--all`` it has what the package itself asks for, and
the tests of files, stores, readers and the tracker run, as in CI; with it come the frameworks, notebooks and browser,
and every quick test.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
BOUNDS = ROOT / "tests" / "constraints-lowest.txt"
_TOOLS = ("pytest", "pytest-xdist", "hypothesis", "huggingface_hub")
_ROOMS = ("storage", "analysis", "doors")


def main() -> int:
    """Make the environment if it is not there, and return pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="keeps the environment")
    parser.add_argument("--all", action="store_true", help="install the test extra, and run every quick test")
    arguments, further = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = (arguments.dir or Path(temporary)).absolute()
        python = place / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        wanted = ["-e", f"{ROOT}[test]"] if arguments.all else [*_TOOLS, "-e", str(ROOT)]
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-c", str(BOUNDS), *wanted], check=True)
        tests = [] if arguments.all else [f"tests/{room}" for room in _ROOMS]
        return subprocess.run([str(python), "-m", "pytest", *tests, *further], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
