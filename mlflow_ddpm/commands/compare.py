"""``mlflow-ddpm compare``: several runs in one set of pictures and tables."""

from __future__ import annotations

import argparse

from mlflow_ddpm.commands.common import AUTO, Commands, command

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command."""
    parser = command(
        commands,
        "compare",
        "overlay runs in the same eleven plots, with tables of their results and of the settings that differ",
        "mlflow-ddpm compare runs/digits runs/digits-2 --output-dir comparison",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="two runs or more: a run id, an output directory, or its CSV or JSON file; seven have a colour of their "
        "own, up to seven more come dashed",
    )
    parser.add_argument(
        "--output-dir", default="comparison", metavar="DIR", help="the files are made here (default: %(default)s)"
    )
    parser.add_argument(
        "--theme", choices=("dark", "paper"), default="dark", help="look of the plots (default: %(default)s)"
    )
    parser.add_argument(
        "--format",
        default=AUTO,
        metavar="LIST",
        help="files of the plots: png, pdf, svg, or several joined by commas (default: auto: png for dark, pdf,svg for "
        "paper)",
    )
    parser.add_argument(
        "--width",
        default=AUTO,
        metavar="LIST",
        help="of paper: single (one column, 3.5 in), double (both, 7.2 in), or both joined by a comma; names of double "
        "ones end in _double (default: auto: single,double)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from mlflow_ddpm.compare.runs import compare_runs
    from mlflow_ddpm.files import shown
    from mlflow_ddpm.history import rows_from_frame
    from mlflow_ddpm.readable import format_number
    from mlflow_ddpm.summary import summarise

    paper = args.theme == "paper"
    made = compare_runs(
        args.runs,
        save_dir=args.output_dir,
        theme=args.theme,
        formats=_parts(args.format, "pdf,svg" if paper else "png"),
        widths=_parts(args.width, "single,double" if paper else ""),
        tracking_uri=args.tracking_uri,
    )
    for one in made.runs:
        of = summarise(rows_from_frame(one.history))
        best = f"best loss {format_number(of.best_loss)} at epoch {of.best_epoch}"
        print(f"{one.name}: {of.epochs} epochs, {best if of.best_loss is not None else 'no finite loss'}")
    print(f"{shown(made.files[0])} shows them, with {len(made.files) - 1} plots and tables beside it")


def _parts(text: str, default: str) -> tuple[str, ...]:
    text = default if text == AUTO else text
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
