"""``mlflow-ddpm export``: a run with its model as a folder for the Hugging Face Hub."""

import argparse
import shlex

from mlflow_ddpm.cli.options import Commands, add_source, command, named_source
from mlflow_ddpm.cli.parser import given
from mlflow_ddpm.core.formatting import display_path


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "export",
        "make a folder of a run's model, with its card, plots and samples, ready for the Hugging Face Hub",
        "mlflow-ddpm export runs/digits digits-ddpm --license apache-2.0",
        arguments="RUN FOLDER",
    )
    add_source(parser)
    parser.add_argument(
        "folder",
        type=given,
        metavar="FOLDER",
        help="made if it is missing; else it must be empty, or from an earlier export",
    )
    parser.add_argument(
        "--license",
        default="",
        metavar="ID",
        help="the Hub's identifier of the model's license, such as apache-2.0, or another license's name (default: the "
        "license of the run's config, else other with a note)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from mlflow_ddpm.publishing.hub_folder import export_run, hub_name

    made = export_run(
        named_source(args, before=args.folder), args.folder, license_name=args.license, tracking_uri=args.tracking_uri
    )
    size = sum(path.stat().st_size for path in made.files)
    print(
        f"{len(made.files)} files ({size / 2**20:.1f} MiB) are in {display_path(made.folder)}; "
        f"read {display_path(made.files[0])}"
    )
    if made.license == "other":
        print("the license is `other`: name one with --license, or put its text beside the card as LICENSE")
    print(f"hf upload {shlex.quote(hub_name(made.folder))} {display_path(made.folder)}")
