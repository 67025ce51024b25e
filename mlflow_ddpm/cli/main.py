"""The command ``mlflow-ddpm``. It parses, calls the library, and says in words what came of it.

Errors that the library raises on purpose become one line on standard error and a non-zero exit: 2 for a mistake in the
call, 1 for everything else.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from mlflow_ddpm.cli import compare, download, history, publish, sample, status, sync, train
from mlflow_ddpm.core.errors import MlflowDdpmError, UsageError
from mlflow_ddpm.core.version import __version__

__all__ = ["build_parser", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = build_parser().parse_args(argv)
    _log_to_stderr()
    try:
        args.run(args)
        sys.stdout.flush()
    except MlflowDdpmError as error:
        return _fail(str(error), 2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        return _fail(f"interrupted{getattr(args, 'when_interrupted', '')}", 130)
    except BrokenPipeError:  # `mlflow-ddpm history ... | head` is no error
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - nothing more can be written
        return 0
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands. Imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="mlflow-ddpm", description="Train a DDPM on handwritten digits or EMNIST, and follow the run on MLflow."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for one in (train, sample, publish, download, compare, history, sync, status):
        one.add(commands)
    return parser


def _log_to_stderr() -> None:
    """Show our warnings as plain lines, and spare the user the database migrations of MLflow's first use."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    log = logging.getLogger("mlflow_ddpm")
    log.handlers[:] = [handler]
    log.propagate = False
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each of a dozen small files
    for noisy in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _fail(message: str, status: int) -> int:
    print("mlflow-ddpm: error: " + " ".join(message.split()), file=sys.stderr)
    return status
