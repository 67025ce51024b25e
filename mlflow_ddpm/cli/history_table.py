"""A history as a table that fits a terminal: as many columns as have room, and a word on those that have not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlflow_ddpm.core.formatting import format_number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["terminal_table"]

_GAP = 2


def terminal_table(history: pd.DataFrame, columns: Sequence[str], width: int | None) -> str:
    """Return the columns right-aligned, one line per epoch; ``width`` in characters, None for no limit."""
    if not len(history):
        return "no epochs yet"
    cells = {name: [name, *_readable(history, name)] for name in columns}
    widths = {name: max(map(len, column)) for name, column in cells.items()}
    shown = _fitting(widths, width)
    lines = [
        (" " * _GAP).join(cells[name][row].rjust(widths[name]) for name in shown) for row in range(len(history) + 1)
    ]
    left = [name for name in columns if name not in shown]
    if left:
        lines.append(f"{len(left)} more columns: {', '.join(left)}; choose with --columns, or take --format csv")
    return "\n".join(lines)


def _readable(history: pd.DataFrame, name: str) -> list[str]:
    import pandas as pd

    return [format_number(None if value is pd.NA else value) for value in history[name].astype(object)]


def _fitting(widths: dict[str, int], width: int | None) -> list[str]:
    """Return the leading columns that fit; the first one in any case."""
    shown: list[str] = []
    used = -_GAP
    for name, needed in widths.items():
        used += needed + _GAP
        if width is not None and shown and used > width:
            break
        shown.append(name)
    return shown
