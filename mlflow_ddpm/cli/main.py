"""The command ``mlflow-ddpm``: it parses, calls the library and prints the result.

Errors that the library raises on purpose become one line on standard error and a non-zero exit: 2 for a mistake in the
call, 1 for everything else.
"""

from __future__ import annotations

import argparse
import codecs
import io
import logging
import os
import sys
from collections.abc import Sequence

from mlflow_ddpm.cli import compare, download, export, history, publish, sample, status, sync, train
from mlflow_ddpm.core.errors import MlflowDdpmError, UsageError
from mlflow_ddpm.core.version import __version__

__all__ = ["build_parser", "main"]

# What we print ourselves and a console may not have; other characters become escapes, which name a file exactly.
_IN_ASCII = {"\u2013": "-", "\u2212": "-", "\u00b7": "-", "\u00d7": "x", "\u00e9": "e"}  # dashes, minus, dot, times


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    _accept_every_character()
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
    except ModuleNotFoundError as error:  # such as `mlflow run --env-manager=local` outside of the environment
        what = f"{sys.executable} has no module {error.name}"
        return _fail(f"{what}; activate the environment that mlflow_ddpm is installed in", 1)
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
    for module in (train, sample, publish, download, export, compare, history, sync, status):
        module.add(commands)
    return parser


def _accept_every_character() -> None:
    """Let consoles that are not UTF-8 (``LANG=C`` in a container, Windows code pages) show what they can."""
    codecs.register_error("mlflow_ddpm.console", _encodable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mlflow_ddpm.console")


def _encodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return a replacement for the characters that the console's encoding does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


def _log_to_stderr() -> None:
    """Show our warnings as plain lines, and spare the user the database migrations of MLflow's first use."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    log = logging.getLogger("mlflow_ddpm")
    log.handlers[:] = [handler]
    log.propagate = False
    logging.getLogger("mlflow_ddpm.progress").setLevel(logging.INFO)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each of a dozen small files
    for noisy in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _fail(message: str, status: int) -> int:
    print("mlflow-ddpm: error: " + " ".join(message.split()), file=sys.stderr)
    return status
