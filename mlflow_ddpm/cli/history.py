"""``mlflow-ddpm history``: a run's rows as a table that fits the terminal; what has no room is named below."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlflow_ddpm.cli.options import Commands, add_source, command, named_source
from mlflow_ddpm.cli.parser import choice, given, nearest
from mlflow_ddpm.cli.terminal import console_on, width_of
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.formatting import count_of, format_number

if TYPE_CHECKING:
    import pandas as pd

# First in every table; all others follow in the order of the metrics table.
_CORE = ("epoch", "loss_mean", "lr", "grad_norm", "samples_per_sec", "epoch_time_sec", "loss_std")
_GAP = 2  # spaces between columns
_NAMED = 6  # columns without room that are named; --all shows all


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "history",
        "print a run's history, one row per epoch or window of steps",
        "mlflow-ddpm history runs/digits --columns epoch,loss_mean,lr",
        arguments="RUN",
    )
    add_source(parser)
    parser.add_argument(
        "--columns",
        type=given,
        metavar="NAME,NAME",
        help="these columns only (default: all that were measured, the core ones first)",
    )
    parser.add_argument(
        "--all", action="store_true", help="all columns, also those without room on the terminal, which follow below"
    )
    parser.add_argument(
        "--format",
        type=choice("table", "csv"),
        metavar="{table,csv}",
        default="table",
        help="a table for readers, or the whole history as CSV (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    from mlflow_ddpm.analysis.history import load_history
    from mlflow_ddpm.core.csv_table import csv_bytes
    from mlflow_ddpm.storage.csv_file import render_csv

    source = named_source(args)
    history = load_history(source, tracking_uri=args.tracking_uri)
    frame = history.frame
    measured = [name for name in frame.columns if name != "logged_at_ms" and frame[name].notna().any()]
    measured.sort(key=lambda name: _CORE.index(name) if name in _CORE else len(_CORE))
    columns = [name.strip() for name in (args.columns or "").split(",") if name.strip()] or measured
    unknown = [name for name in columns if name not in frame.columns]
    if unknown:
        near = nearest(unknown[0], frame.columns)
        advice = f"did you mean {near}?" if near else f"there are {', '.join(frame.columns)}"
        raise UsageError(f"--columns: no column {unknown[0]}; {advice}")
    if args.format == "csv":
        rows = [{**row.values(), "logged_at_ms": row.logged_at_ms} for row in history.rows]
        chosen = csv_bytes(columns, [[row.get(name) for name in columns] for row in rows])
        print((chosen if args.columns else render_csv(history.rows)).decode(), end="")
    else:
        counted = history.axis_label.lower()
        print_history(frame, columns, width_of(sys.stdout), all_columns=args.all, counted=counted)


def print_history(
    history: pd.DataFrame, columns: Sequence[str], width: int | None, *, all_columns: bool, counted: str = "epoch"
) -> None:
    """Print the columns right-aligned, one line a row; the first one counts the rows, in ``counted``: epoch or step.

    Those without room in the terminal's ``width`` are named below, or follow as further tables.
    """
    if not len(history):
        print(f"no {counted}s yet")
        return
    history = history[list(columns)].rename(columns={"epoch": counted})
    done = _print_fitting(history, width)
    waiting = history.columns[done:]
    if len(waiting) and not all_columns:
        names = [*waiting[:_NAMED], *(["..."] if len(waiting) > _NAMED else [])]
        more = count_of(len(waiting), "more column")
        print(f"{more}: {', '.join(names)}; see them with --all, --columns or --format csv")
    while all_columns and done < len(columns):
        print()
        table = history.iloc[:, [0, *range(done, len(columns))]]
        done += _print_fitting(table, width, at_least=2) - 1  # the first column comes again


def _print_fitting(history: pd.DataFrame, width: int | None, *, at_least: int = 1) -> int:
    """Print the leading columns that fit, ``at_least`` that many in any case; return how many did."""
    import pandas as pd

    lines, shown = [""] * (len(history) + 1), 0
    for name, column in history.items():  # no column is formatted beyond the first without room
        texts = [str(name), *(format_number(None if value is pd.NA else value) for value in column.astype(object))]
        cells = max(map(len, texts)) + (_GAP if shown else 0)
        if width is not None and len(lines[0]) + cells > width and shown >= at_least:
            break
        lines = [line + text.rjust(cells) for line, text in zip(lines, texts, strict=True)]
        shown += 1
    console = console_on(sys.stdout)
    with console.capture() as capture:  # print, not rich, meets a closed pipe
        console.print(lines[0], style="bold")
    print(capture.get(), end="")
    for line in lines[1:]:
        print(line)
    return shown
