"""Run the quick tests with the lowest versions that pyproject.toml allows: ``python tests/compat/lowest.py [DIR]``.

The environment is made in DIR, by default in a temporary folder, on the Python that runs this; it should be 3.11, the
lowest. Further arguments go to pytest.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Make the environment if it is not there, and return pytest's exit status."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).absolute()
        python = place / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        bounds = ["-c", str(ROOT / "tests" / "constraints-lowest.txt")]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *bounds, "-e", f"{ROOT}[test]"], check=True)
        return subprocess.run([str(python), "-m", "pytest", *sys.argv[2:]], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
