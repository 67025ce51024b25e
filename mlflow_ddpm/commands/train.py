"""``mlflow-ddpm train``: train, track, publish."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from mlflow_ddpm.commands.common import AUTO, Commands, command
from mlflow_ddpm.ddpm.config import from_options, options

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "train",
        "train, track every epoch, and publish plots and report at the end",
        "mlflow-ddpm train --data emnist-mnist --data-dir ~/emnist --epochs 8",
    )
    parser.add_argument(
        "--output-dir",
        default=AUTO,
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
    parser.set_defaults(run=run, when_interrupted="; the same command goes on from the last checkpoint")


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mlflow_ddpm import ranks
    from mlflow_ddpm.ddpm.output_dir import choose_output_dir
    from mlflow_ddpm.progress import progress_on

    config = from_options({o.dest: getattr(args, o.dest) for o in options()}).resolve()
    directory = choose_output_dir(config) if args.output_dir == AUTO else Path(args.output_dir)
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
