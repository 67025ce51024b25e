"""A history as a table that fits a terminal: core columns first, and a line that names those without room."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from textwrap import dedent

import pandas as pd

from mlflow_ddpm.cli.terminal import console_on
from mlflow_ddpm.core.formatting import count_of, format_number

# First in every table; all others follow in the order of the metrics table.
CORE = ("epoch", "loss_mean", "lr", "grad_norm", "samples_per_sec", "epoch_time_sec", "loss_std")
_GAP = 2  # spaces between columns
_NAMED = 6  # columns without room that are named; --all shows all


def print_history(
    history: pd.DataFrame, columns: Sequence[str], width: int | None, *, all_columns: bool, counted: str = "epoch"
) -> None:
    """Print the columns right-aligned, one line per epoch.

    Args:
        history: one row per epoch.
        columns: which columns, in order; the first one counts the rows.
        width: of the terminal in characters; None: no limit.
        all_columns: print those without room as further tables below, instead of naming them.
        counted: what the column ``epoch`` counts: "epoch" or "step".
    """
    if not len(history):
        print(f"no {counted}s yet")
        return
    texts = history[list(columns)].astype(object).map(lambda value: format_number(None if value is pd.NA else value))
    texts = texts.rename(columns={"epoch": counted})
    waiting = _print_fitting(texts, width)
    if len(waiting.columns) and not all_columns:
        names = [*waiting.columns[:_NAMED], *(["..."] if len(waiting.columns) > _NAMED else [])]
        more = count_of(len(waiting.columns), "more column")
        print(f"{more}: {', '.join(names)}; see them with --all, --columns or --format csv")
    while len(waiting.columns) and all_columns:
        print()
        waiting = _print_fitting(pd.concat([texts.iloc[:, :1], waiting], axis=1), width, at_least=2)


def _print_fitting(texts: pd.DataFrame, width: int | None, *, at_least: int = 1) -> pd.DataFrame:
    """Print the leading columns that fit, ``at_least`` that many in any case; return the others."""
    widths = [max(len(str(name)), *map(len, column)) for name, column in texts.items()]
    ends = [sum(widths[: i + 1]) + _GAP * i for i in range(len(widths))]
    shown = max(at_least, sum(width is None or end <= width for end in ends))
    spaces = [cells + (_GAP - 1 if i else 0) for i, cells in enumerate(widths)]  # pandas puts one between columns
    head, _, rows = dedent(texts.iloc[:, :shown].to_string(index=False, col_space=spaces[:shown])).partition("\n")
    console = console_on(sys.stdout)
    with console.capture() as capture:  # print, not rich, meets a closed pipe
        console.print(head, style="bold")
    print(capture.get() + rows)
    return texts.iloc[:, shown:]
