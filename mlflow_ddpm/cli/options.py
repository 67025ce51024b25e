"""What commands' parsers share: a description, an example, the tracking store, and which figures to make."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from mlflow_ddpm.cli.parser import CommandParser, choice, choices, given
from mlflow_ddpm.cli.terminal import print_error
from mlflow_ddpm.core.errors import MlflowDdpmError, UsageError
from mlflow_ddpm.core.formatting import printable
from mlflow_ddpm.plotting.themes import THEMES

if TYPE_CHECKING:
    from mlflow_ddpm.plots import FigureSet

AUTO = "auto"  # the default of an option that the command works out for itself

# argparse has no public name for it, and it takes its parameter from type checkers alone.
Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"  # noqa: SLF001


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps everything but the example, which is copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("example: ") else super()._fill_text(text, width, indent)


def command(
    commands: Commands,
    name: str,
    summary: str,
    example: str,
    store: str | None = "MLflow's settings: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here",
    *,
    arguments: str = "",
) -> CommandParser:
    """Add a command; ``store`` names the default of ``--tracking-uri``; None leaves that option out.

    ``arguments`` is what the usage line shows between the command and its options.
    """
    parser = commands.add_parser(
        name,
        usage=" ".join(filter(None, ("mlflow-ddpm", name, arguments, "[options]"))),
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example: {example}",
        formatter_class=_HelpFormatter,
    )
    if store is not None:
        parser.add_argument("--tracking-uri", type=given, metavar="URI", help=f"tracking store (default: {store})")
    return parser


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the run that a command reads: ``RUN`` or ``--last``."""
    parser.add_argument(
        "source",
        type=given,
        metavar="RUN",
        nargs="?",
        help="a run id, its first letters, runs:/ID, models:/NAME/1, an output directory, or its CSV or JSON file",
    )
    parser.add_argument("--last", action="store_true", help="take the newest run of the tracking store instead")


def named_source(args: argparse.Namespace, before: str = "") -> str:
    """Return the run that :func:`add_source` names, one and no more; ``before`` is the argument that follows."""
    from mlflow_ddpm.storage.run_search import newest_run

    if args.last == (args.source is not None):
        folder, alone = (", and then a folder", f"{before} alone") if before else ("", "neither")
        raise UsageError(f"expected either RUN or --last{folder}, got {'both' if args.last else alone}")
    return newest_run(args.tracking_uri).run_id if args.last else str(args.source)


def add_figure_options(parser: argparse.ArgumentParser, *, theme: str, formats: str) -> None:
    """Add the options that choose figures; the command describes what ``--theme`` and ``--format`` are for."""
    names = f"{{{','.join(THEMES)}}}"
    parser.add_argument("--theme", type=choice(*THEMES), metavar=names, default="dark", help=f"{theme} (default: dark)")
    parser.add_argument("--format", type=choices(AUTO, "png", "pdf", "svg"), metavar="LIST", help=formats)
    parser.add_argument(
        "--width",
        type=choices(AUTO, "single", "double"),
        metavar="LIST",
        help="with --theme paper: single (one column, 3.5 in), double (both, 7.2 in), or both joined by a comma; "
        "names of double ones end in _double (default: auto: single,double)",
    )
    parser.add_argument(
        "--font",
        type=choice("serif", "sans"),
        metavar="{serif,sans}",
        default=None,
        help="with --theme paper: serif (like Times), or sans (like Helvetica, if one is installed) "
        "(default: DejaVu Sans)",
    )


def figures_wanted(args: argparse.Namespace) -> FigureSet:
    """Return what the options of :func:`add_figure_options` ask for."""
    from mlflow_ddpm.plots import FigureSet

    is_paper = args.theme == "paper"
    formats, widths = (None if names in (None, (AUTO,)) else names for names in (args.format, args.width))
    for flag, value in (("--width", widths), ("--font", args.font)):
        if value and not is_paper:
            raise UsageError(f"{flag} goes with --theme paper, got --theme {args.theme}")
    return FigureSet(
        args.theme,
        formats or (("pdf", "svg") if is_paper else ("png",)),
        widths or (("single", "double") if is_paper else ()),
        args.font or "",
    )


def print_for_each(directories: Iterable[str], work: Callable[[Path], str]) -> None:
    """Print the result for each directory, then a line for each that failed; raise the error of the last of them."""
    failed: list[MlflowDdpmError] = []
    for directory in map(Path, directories):
        try:
            print("\n".join(map(printable, work(directory).split("\n"))), flush=True)
        except MlflowDdpmError as error:
            failed.append(error if str(directory) in str(error) else type(error)(f"{directory}: {error}"))
    for earlier in failed[:-1]:
        print_error(str(earlier))
    if failed:
        raise failed[-1]
