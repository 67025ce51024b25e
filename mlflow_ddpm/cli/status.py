"""``mlflow-ddpm status``: what MLflow has, what waits, and what was set aside."""

import argparse

from mlflow_ddpm.cli.options import Commands, command, print_for_each
from mlflow_ddpm.cli.parser import given


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "status",
        "show what MLflow has of the runs in output directories, what waits, what was set aside and why, and the link "
        "to the run's page, without asking the store",
        "mlflow-ddpm status runs/digits",
        store=None,
        arguments="DIR ...",
    )
    parser.add_argument("directories", type=given, metavar="DIR", nargs="+", help="output directories of training runs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from mlflow_ddpm.storage.status import status_of

    print_for_each(args.directories, status_of)
