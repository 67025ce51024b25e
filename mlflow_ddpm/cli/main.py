"""The command ``mlflow-ddpm``: it parses, calls the library and prints the result.

Errors that the library raises on purpose become one line on standard error and a non-zero exit: 2 for a mistake in the
call, 1 for everything else.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Sequence

from mlflow_ddpm.cli import compare, download, export, history, publish, sample, status, sync, train
from mlflow_ddpm.cli.parser import CommandParser
from mlflow_ddpm.cli.terminal import discard_stdout, log_to_stderr, prepare_streams, print_error
from mlflow_ddpm.core.errors import MlflowDdpmError, RunMissingError, UsageError
from mlflow_ddpm.core.formatting import first_line
from mlflow_ddpm.core.version import __version__

_EPILOG = """environment:
  MLFLOW_TRACKING_URI  the tracking store, where --tracking-uri is not given
  MLFLOW_RUN_ID        the run that train writes to, instead of a new one
  NO_COLOR             any value: no colours

options of a command, with units, defaults and an example:
  mlflow-ddpm COMMAND --help"""

_OTHER_STORE = "; if another store has it, name that one with --tracking-uri"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    prepare_streams()
    words = sys.argv[1:] if argv is None else list(argv)
    args = argparse.Namespace()
    try:
        parser = build_parser()
        if not words:
            parser.print_help()
        else:
            parser.parse_args(words, args)
            log_to_stderr()
            args.run(args)
        sys.stdout.flush()
    except MlflowDdpmError as error:
        advice = _OTHER_STORE if isinstance(error, RunMissingError) and "--tracking-uri" not in str(error) else ""
        return _fail(f"{error}{advice}", 2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        return _fail(f"interrupted{getattr(args, 'when_interrupted', '')}", 130)
    except BrokenPipeError:  # `mlflow-ddpm history ... | head` is no error
        discard_stdout()
        return 0
    except ModuleNotFoundError as error:  # such as `mlflow run --env-manager=local` outside of the environment
        what = f"{sys.executable} has no module {error.name}"
        remedy = "activate the environment that mlflow_ddpm is installed in"
        print(f"mlflow-ddpm: error: {what}; {remedy}", file=sys.stderr)  # not by rich, which may be missing as well
        return 1
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _fail(f"out of memory ({first_line(error)}){getattr(args, 'when_out_of_memory', '')}", 1)
    return 0


def build_parser() -> CommandParser:
    """Return the parser of all commands. Imports nothing heavy."""
    parser = CommandParser(
        prog="mlflow-ddpm",
        usage="mlflow-ddpm COMMAND [options]",
        description="Train a DDPM on handwritten digits or EMNIST, and follow the run on MLflow.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", prog="mlflow-ddpm", required=True, metavar="COMMAND")
    for module in (train, sample, publish, download, export, compare, history, sync, status):
        module.add(commands)
    return parser


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether Python, NumPy or torch, on the CPU or a GPU, got no memory."""
    return isinstance(error, MemoryError) or bool(re.search(r"out of memory|(can't|not enough).*memory", str(error)))


def _fail(message: str, status: int) -> int:
    try:
        sys.stdout.flush()
    except OSError:
        discard_stdout()
    with contextlib.suppress(OSError):
        print_error(message)
    return status
