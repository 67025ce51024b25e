"""A history as a table that fits a terminal: core columns first, and a line that names those without room."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlflow_ddpm.cli.terminal import console_on
from mlflow_ddpm.core.formatting import count_of, format_number

if TYPE_CHECKING:
    import pandas as pd

# First in every table; all others follow in the order of the metrics table.
CORE = ("epoch", "loss_mean", "lr", "grad_norm", "samples_per_sec", "epoch_time_sec", "loss_std")
_GAP = 2
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
    cells = {name: [counted if name == "epoch" else name, *_readable(history, name)] for name in columns}
    shown = _fitting(cells, columns, width)
    _print_table(cells, shown)
    left = [name for name in columns if name not in shown]
    if left and not all_columns:
        names = [*left[:_NAMED], *(["..."] if len(left) > _NAMED else [])]
        print(
            f"{count_of(len(left), 'more column')}: {', '.join(names)}; see them with --all, --columns or --format csv"
        )
    while left and all_columns:
        shown = _fitting(cells, [columns[0], *left], width)
        shown = shown if len(shown) > 1 else [columns[0], left[0]]
        print()
        _print_table(cells, shown)
        left = [name for name in left if name not in shown]


def _print_table(cells: dict[str, list[str]], columns: Sequence[str]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(cells[name][0], justify="right", no_wrap=True)
    for row in zip(*(cells[name][1:] for name in columns), strict=True):
        table.add_row(*row)
    console = console_on(sys.stdout)
    with console.capture() as capture:  # print, not rich, meets a closed pipe
        console.print(table)
    print(capture.get(), end="")


def _readable(history: pd.DataFrame, name: str) -> list[str]:
    import pandas as pd

    return [format_number(None if value is pd.NA else value) for value in history[name].astype(object)]


def _fitting(cells: dict[str, list[str]], columns: Sequence[str], width: int | None) -> list[str]:
    """Return the leading columns that fit; the first one in any case."""
    from rich.cells import cell_len

    shown: list[str] = []
    used = -_GAP
    for name in columns:
        used += max(map(cell_len, cells[name])) + _GAP
        if width is not None and shown and used > width:
            break
        shown.append(name)
    return shown
