"""The command ``mlflow-ddpm``. It parses, calls the library, and says in words what came of it.

Errors that the library raises on purpose become one line on standard error and a non-zero exit: 2 for a mistake in the
call, 1 for everything else.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mlflow_ddpm._version import __version__
from mlflow_ddpm.ddpm.config import from_options, options
from mlflow_ddpm.errors import MlflowDdpmError, UsageError

__all__ = ["build_parser", "main"]

_AUTO = "auto"


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
    _add_train(commands)
    _add_publish(commands)
    _add_history(commands)
    _add_sync(commands)
    _add_status(commands)
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    says: str,
    example: str,
    store: str = "MLflow's settings: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here",
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=says,
        description=says[0].upper() + says[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"tracking store (default: {store})",
    )
    return parser


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "train",
        "train, track every epoch, and publish plots and report at the end",
        "mlflow-ddpm train --data emnist-mnist --data-dir ~/emnist --epochs 8",
    )
    parser.add_argument(
        "--output-dir",
        default=_AUTO,
        metavar="DIR",
        help="metrics, samples and checkpoints go here; a directory with an unfinished run goes on with it "
        "(default: auto: runs/DATA, or runs/DATA-2, ... where that is taken)",
    )
    parser.add_argument("--run-name", metavar="NAME", help="the run's name in MLflow (default: MLflow makes one up)")
    parser.add_argument(
        "--experiment-name", metavar="NAME", help="the run's experiment, made if missing (default: MLflow's settings)"
    )
    parser.add_argument("--resume", action="store_true", help="add epochs to a run that had finished")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in options():
        group = groups.setdefault(option.group, parser.add_argument_group(option.group))
        group.add_argument(
            option.flag,
            type=option.type,
            default=option.default,
            choices=option.choices or None,
            metavar=None if option.choices else option.flag.rsplit("-", 1)[-1].upper(),
            help=f"{option.help} (default: {option.default_text})".replace("%", "%%"),
        )
    parser.set_defaults(run=_train, when_interrupted="; the same command goes on from the last checkpoint")


def _add_publish(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "publish",
        "render a run's plots and report from its tracking store, and log them as its artifacts",
        "mlflow-ddpm publish 0123456789abcdef0123456789abcdef",
    )
    parser.add_argument("run_id", metavar="RUN_ID", help="the run, from the end of `mlflow-ddpm train` or the UI")
    parser.add_argument(
        "--output-dir",
        default=_AUTO,
        metavar="DIR",
        help="the files are made here, too (default: auto: metrics-<first 8 letters of RUN_ID>)",
    )
    parser.set_defaults(run=_publish)


def _add_history(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "history",
        "print a run's history, one row per epoch",
        "mlflow-ddpm history runs/digits --columns epoch,loss_mean,lr",
    )
    parser.add_argument("source", metavar="SOURCE", help="a run id, an output directory, or its CSV or JSON file")
    parser.add_argument("--columns", metavar="A,B", help="these columns only (default: all that were measured)")
    parser.add_argument("--format", choices=("table", "csv"), default="table", help="default: %(default)s")
    parser.set_defaults(run=_history)


def _add_sync(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "sync",
        "send MLflow what it lacks of the runs in output directories; may be repeated",
        "mlflow-ddpm sync runs/digits --tracking-uri http://127.0.0.1:5000",
        "the one that the run was meant for",
    )
    parser.add_argument("directories", metavar="DIR", nargs="+", help="output directories of training runs")
    parser.add_argument(
        "--timeout",
        type=float,
        default=300.0,
        metavar="SEC",
        help="seconds to wait for the store (default: %(default)g)",
    )
    parser.set_defaults(run=_sync)


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "status",
        help="say what MLflow has of the runs in output directories, and what waits",
        description="Say what MLflow has of the runs in output directories, and what waits. Asks no store.",
        epilog="example: mlflow-ddpm status runs/digits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directories", metavar="DIR", nargs="+", help="output directories of training runs")
    parser.set_defaults(run=_status)


def _train(args: argparse.Namespace) -> None:
    from mlflow_ddpm import ranks
    from mlflow_ddpm.ddpm.output_dir import choose_output_dir
    from mlflow_ddpm.progress import progress_on

    config = from_options({o.dest: getattr(args, o.dest) for o in options()}).resolve()
    directory = choose_output_dir(config) if args.output_dir == _AUTO else Path(args.output_dir)
    first = ranks.rank() == 0
    with progress_on(sys.stderr) if first else contextlib.nullcontext() as progress:
        from mlflow_ddpm.ddpm.train import train

        result = train(
            config,
            output_dir=directory,
            run_name=args.run_name,
            experiment_name=args.experiment_name,
            tracking_uri=args.tracking_uri,
            resume=args.resume,
            progress=progress,
        )
    if first:
        from mlflow_ddpm.closing_words import closing_words
        from mlflow_ddpm.publish import publish_or_render

        published = publish_or_render(result.run_id, output_dir=directory, tracking_uri=args.tracking_uri)
        print(closing_words(published, args.tracking_uri))


def _publish(args: argparse.Namespace) -> None:
    from mlflow_ddpm.closing_words import closing_words
    from mlflow_ddpm.publish import publish_run

    directory = None if args.output_dir == _AUTO else args.output_dir
    published = publish_run(args.run_id, output_dir=directory, tracking_uri=args.tracking_uri)
    print(closing_words(published, args.tracking_uri))


def _history(args: argparse.Namespace) -> None:
    from mlflow_ddpm.csvfile import render_csv
    from mlflow_ddpm.history import read_history, rows_from_frame
    from mlflow_ddpm.terminal_table import terminal_table

    frame = read_history(args.source, tracking_uri=args.tracking_uri)
    measured = [name for name in frame.columns if name != "logged_at_ms" and frame[name].notna().any()]
    columns = [name.strip() for name in args.columns.split(",")] if args.columns else measured
    unknown = [name for name in columns if name not in frame.columns]
    if unknown:
        raise UsageError(f"no column {', '.join(unknown)}; there are {', '.join(frame.columns)}")
    if args.format == "csv":
        print(
            frame[columns].to_csv(index=False, na_rep="")
            if args.columns
            else render_csv(rows_from_frame(frame)).decode(),
            end="",
        )
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(terminal_table(frame, columns, width))


def _sync(args: argparse.Namespace) -> None:
    from mlflow_ddpm.sync import sync_directory

    failed: list[MlflowDdpmError] = []
    for directory in args.directories:
        try:
            told = {"tracking_uri": args.tracking_uri, "timeout": args.timeout, "progress": _progress_of(directory)}
            print(sync_directory(Path(directory), **told), flush=True)
        except MlflowDdpmError as error:  # the others have a right to be sent all the same
            failed.append(error)
    if failed:
        raise type(failed[0])("; ".join(map(str, failed)))


def _progress_of(directory: str) -> Callable[[int, int], None]:
    def tell(waiting: int, at_first: int) -> None:
        print(f"{directory}: {at_first - waiting} of {at_first} rows and pictures sent", file=sys.stderr)

    return tell


def _status(args: argparse.Namespace) -> None:
    from mlflow_ddpm.status import status_of

    for directory in args.directories:
        print(status_of(Path(directory)))


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
