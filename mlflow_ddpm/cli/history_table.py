"""A history as a table that fits a terminal: core columns first, and a line that names those without room."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import pandas as pd

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
    if waiting and not all_columns:
        names = [*waiting[:_NAMED], *(["..."] if len(waiting) > _NAMED else [])]
        more = count_of(len(waiting), "more column")
        print(f"{more}: {', '.join(names)}; see them with --all, --columns or --format csv")
    while waiting and all_columns:
        print()
        waiting = _print_fitting(texts[[texts.columns[0], *waiting]], width, at_least=2)


def _print_fitting(texts: pd.DataFrame, width: int | None, *, at_least: int = 1) -> list[str]:
    """Print the leading columns that fit, ``at_least`` that many in any case; return the names of the others."""
    widths = [max(len(name), *map(len, texts[name])) + (_GAP if i else 0) for i, name in enumerate(texts.columns)]
    fitting = sum(total <= width for total in accumulate(widths)) if width else len(widths)
    shown = max(fitting, at_least)
    spaces = [cells - 1 if i else cells for i, cells in enumerate(widths)]  # pandas puts one between columns
    print(texts.iloc[:, :shown].to_string(index=False, col_space=spaces[:shown]))
    return [str(name) for name in texts.columns[shown:]]
