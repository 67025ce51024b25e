"""``mlflow-ddpm compare``: several runs in one set of pictures and tables."""

import argparse

from mlflow_ddpm.cli.options import Commands, add_figure_options, command, figures_wanted
from mlflow_ddpm.cli.parser import folder, given
from mlflow_ddpm.core.formatting import count_of, display_path, format_number


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "compare",
        "overlay runs in the same eleven plots, with tables of their results and of the settings that differ",
        "mlflow-ddpm compare runs/digits runs/digits-2 --output-dir comparison",
        arguments="RUN RUN ...",
    )
    parser.add_argument(
        "runs",
        type=given,
        nargs="*",
        metavar="RUN",
        help="two runs or more, at most 14: a run id or its first letters, an output directory, or its CSV or JSON "
        "file; seven have a colour of their own, seven more are dashed",
    )
    parser.add_argument(
        "--output-dir",
        type=folder,
        default="comparison",
        metavar="DIR",
        help="where the files are made (default: %(default)s)",
    )
    parser.add_argument(
        "--parent",
        type=given,
        metavar="RUN",
        help="compare all child runs of this run instead, and log everything to it as well",
    )
    parser.add_argument(
        "--group-by",
        type=given,
        metavar="PARAM",
        help="a hyperparameter by its dotted name; runs that share its value are drawn as their mean and range",
    )
    add_figure_options(
        parser,
        theme="look of the plots",
        formats="files of the plots: png, pdf, svg, or several joined by commas (default: auto: png for dark, pdf,svg "
        "for paper)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from mlflow_ddpm.publishing.compare import compare_runs

    made = compare_runs(
        args.runs,
        save_dir=args.output_dir,
        parent=args.parent,
        group_by=args.group_by,
        tracking_uri=args.tracking_uri,
        **figures_wanted(args)._asdict(),
    )
    for compared in made.runs:
        summary = compared.history.summary
        best = f"best loss {format_number(summary.best_loss)} at epoch {summary.best_epoch}"
        has_best = summary.best_loss is not None
        result = f"{count_of(summary.epochs, 'epoch')}, {best if has_best else 'no finite loss'}"
        print(f"{compared.name}: {compared.history.worded(result)}")
    print(f"{display_path(made.files[0])} shows them, with {len(made.files) - 1} plots and tables in the same folder")
