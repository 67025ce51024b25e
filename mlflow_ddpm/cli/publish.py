"""``mlflow-ddpm publish``: the post-run step for any run."""

import argparse

from mlflow_ddpm.cli.options import (
    AUTO,
    Commands,
    add_figure_options,
    add_source,
    command,
    figures_wanted,
    named_source,
)
from mlflow_ddpm.cli.parser import folder


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "publish",
        "render a run's plots and report from its tracking store, and log them as its artifacts",
        "mlflow-ddpm publish 0123456789abcdef0123456789abcdef --theme paper --format pdf,svg",
        arguments="RUN",
    )
    add_source(parser)
    parser.add_argument(
        "--output-dir",
        type=folder,
        default=AUTO,
        metavar="DIR",
        help="where the files are made, besides the run's artifacts (default: auto: RUN if it is a directory, else "
        "metrics-<first 8 letters of the run id>)",
    )
    add_figure_options(
        parser,
        theme="look of further figures, put into a folder of that name; the report's own are dark PNGs",
        formats="files of the further figures: png, pdf, svg, or several joined by commas; beside pdf and svg lie the "
        "data of each figure as CSV, and training_summary.csv and .tex (default: auto: pdf,svg for paper, no further "
        "figures for dark)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from mlflow_ddpm.cli.run_overview import run_overview
    from mlflow_ddpm.plots import FigureSet
    from mlflow_ddpm.publishing.publish import publish_run

    directory = None if args.output_dir == AUTO else args.output_dir
    wanted = figures_wanted(args)
    further = None if wanted == FigureSet() else wanted  # beside those of the report
    published = publish_run(named_source(args), output_dir=directory, tracking_uri=args.tracking_uri, figures=further)
    print(run_overview(published, args.tracking_uri))
