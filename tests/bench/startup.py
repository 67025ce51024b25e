"""What an import and a ``--help`` cost beside an interpreter that does nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from stopwatches import Effort, compare
from table import Row, at_most, seconds

__all__ = ["measure"]

_IMPORT_MS, _HELP_SEC = 50, 0.3


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of point 6."""
    repeats = effort.of(25, 1)
    nothing = _process(sys.executable, "-c", "pass")
    pair = compare(_process(sys.executable, "-c", "import mlflow_ddpm"), nothing, repeats=repeats)
    more_ms = (pair.subject - pair.baseline) * 1e3
    what = "`import mlflow_ddpm`, a whole process, beside `python -c pass`"
    limit = at_most(_IMPORT_MS, more_ms, "ms more")
    yield Row(6, what, f"{seconds(pair.subject)} (+ {more_ms:.1f} ms)", seconds(pair.baseline), pair.ratio, limit)
    pair = compare(_process(*_command(), "--help"), nothing, repeats=repeats)
    limit = at_most(_HELP_SEC, pair.subject, "s")
    what = "`mlflow-ddpm --help`, beside `python -c pass`"
    yield Row(6, what, seconds(pair.subject), seconds(pair.baseline), pair.ratio, limit)


def _command() -> list[str]:
    script = Path(sys.executable).with_name("mlflow-ddpm")
    return [str(script)] if script.exists() else [sys.executable, "-m", "mlflow_ddpm"]


def _process(*command: str) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
