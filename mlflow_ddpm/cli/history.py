"""``mlflow-ddpm history``: a run's rows on the terminal."""

from __future__ import annotations

import argparse
import sys

from mlflow_ddpm.cli.options import Commands, add_source, command, named_source
from mlflow_ddpm.cli.parser import choice, nearest
from mlflow_ddpm.core.errors import UsageError


def add(commands: Commands) -> None:
    parser = command(
        commands,
        "history",
        "print a run's history, one row per epoch",
        "mlflow-ddpm history runs/digits --columns epoch,loss_mean,lr",
        arguments="RUN",
    )
    add_source(parser)
    parser.add_argument(
        "--columns",
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
    from mlflow_ddpm.cli.history_table import CORE, print_history
    from mlflow_ddpm.cli.terminal import width_of
    from mlflow_ddpm.core.csv_table import csv_bytes
    from mlflow_ddpm.storage.csv_file import render_csv

    source = named_source(args)
    history = load_history(source, tracking_uri=args.tracking_uri)
    frame = history.frame
    measured = [name for name in frame.columns if name != "logged_at_ms" and frame[name].notna().any()]
    measured.sort(key=lambda name: CORE.index(name) if name in CORE else len(CORE))
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
