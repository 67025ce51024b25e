"""``mlflow-ddpm sync``: upload what MLflow does not have yet."""

import argparse
import sys
from pathlib import Path

from mlflow_ddpm.cli.options import Commands, command, print_for_each
from mlflow_ddpm.cli.parser import given, number


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "sync",
        "upload to MLflow what it does not have yet of the runs in output directories; may be repeated",
        "mlflow-ddpm sync runs/digits --tracking-uri http://127.0.0.1:5000",
        "the one that the run was meant for",
        arguments="DIR ...",
    )
    parser.add_argument("directories", type=given, metavar="DIR", nargs="+", help="output directories of training runs")
    parser.add_argument(
        "--timeout",
        type=number(0),
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for the store, per directory (default: %(default)g)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from mlflow_ddpm.tracking.sync import sync_directory

    def sync(directory: Path) -> str:
        def show(waiting: int, at_first: int) -> None:
            print(f"{directory}: {at_first - waiting} of {at_first} rows and pictures sent", file=sys.stderr)

        return sync_directory(directory, tracking_uri=args.tracking_uri, timeout=args.timeout, progress=show)

    print_for_each(args.directories, sync)
