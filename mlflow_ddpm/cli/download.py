"""``mlflow-ddpm download``: what a run has published, brought here."""

import argparse
from collections import Counter

from mlflow_ddpm.cli.options import Commands, add_source, command, named_source
from mlflow_ddpm.cli.parser import folder
from mlflow_ddpm.core.formatting import count_of, display_path


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "download",
        "fetch what a run has published: plots, report, data, figures for a paper, samples",
        "mlflow-ddpm download 0123456789abcdef0123456789abcdef results",
        arguments="RUN DIR",
    )
    add_source(parser)
    parser.add_argument("directory", type=folder, metavar="DIR", help="where the files are put; made if it is missing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from mlflow_ddpm.publishing.download import download_run

    fetched = download_run(named_source(args, before=args.directory), args.directory, tracking_uri=args.tracking_uri)
    size = sum(path.stat().st_size for path in fetched.files)
    print(
        f"{count_of(len(fetched.files), 'file')} ({size / 2**20:.1f} MiB) of run {fetched.run_id} are in "
        f"{display_path(fetched.directory)}"
    )
    for place in sorted({path.parent for path in fetched.files}):
        counts = Counter(path.suffix.removeprefix(".") for path in fetched.files if path.parent == place)
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        print(f"  {display_path(place)}: {kinds}")
