"""``mlflow-ddpm publish``: the post-run step for any run."""

from __future__ import annotations

import argparse

from mlflow_ddpm.commands.common import AUTO, Commands, command

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "publish",
        "render a run's plots and report from its tracking store, and log them as its artifacts",
        "mlflow-ddpm publish 0123456789abcdef0123456789abcdef",
    )
    parser.add_argument("run_id", metavar="RUN_ID", help="the run, from the end of `mlflow-ddpm train` or the UI")
    parser.add_argument(
        "--output-dir",
        default=AUTO,
        metavar="DIR",
        help="the files are made here, too (default: auto: metrics-<first 8 letters of RUN_ID>)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mlflow_ddpm.closing_words import closing_words
    from mlflow_ddpm.publish import publish_run

    directory = None if args.output_dir == AUTO else args.output_dir
    published = publish_run(args.run_id, output_dir=directory, tracking_uri=args.tracking_uri)
    print(closing_words(published, args.tracking_uri))
