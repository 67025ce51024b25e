"""The look of each run when several share a picture: colour, dashes, name and legend, the same in every picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.plotting.figure import FigureGrid
from mlflow_ddpm.plotting.text import drawable_name, short_names
from mlflow_ddpm.plotting.themes import setting

NamedRuns = Sequence[tuple[str, RunHistory | Sequence[RunHistory]]]

# M. Okabe and K. Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/: all but the one of the eight
# that the background swallows, strongest contrast first. Light grey stands for black on the dark background.
_COLORS = {
    "dark": ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#E6E8EB"),
    "paper": ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9"),
}
_STYLES = ("-", "--")  # once all colours are taken, they return dashed
MOST_RUNS = len(_STYLES) * len(_COLORS["dark"])
MOST_END_LABELS = 5  # more runs get a legend, which has them in the same order in every picture
_LETTERS = (40, 32, 26, 21, 17, 14, 12, 10, 8, 7)  # of names in the legend, tried until it has few rows
_ROWS = 5  # of the legend, at most
_ROW, _HANDLE, _GAP = 1.35, 2.0, 1.4  # height of a row, sample of a line, gap between entries, in the size of letters


class RunLine(NamedTuple):
    """One run, or a group of runs that share a line, and how it looks in every picture."""

    name: str
    histories: tuple[RunHistory, ...]
    color: str
    style: str  # of its line


def run_lines(runs: NamedRuns, theme: str) -> list[RunLine]:
    """Return each run, a name and its history (or those of a group), with its look; ``MOST_RUNS`` at most."""
    looks = [(color, style) for style in _STYLES for color in _COLORS[theme]]
    return [
        RunLine(drawable_name(name, f"run {i}"), tuple(runs) if isinstance(runs, Sequence) else (runs,), color, style)
        for i, ((name, runs), (color, style)) in enumerate(zip(runs, looks, strict=False), start=1)
    ]


def with_short_names(runs: Sequence[RunLine], length: int) -> list[RunLine]:
    """Return the runs with names of at most ``length`` characters, as they are drawn."""
    names = short_names([run.name for run in runs], length)
    return [run._replace(name=name) for run, name in zip(runs, names, strict=True)]


def add_legend(grid: FigureGrid, runs: Sequence[RunLine]) -> Sequence[RunLine]:
    """Show each run's line and name under the title of the picture, which gets higher by it.

    Returns the runs with their names as they are written.
    """
    from matplotlib.lines import Line2D

    figure, size = grid.figure, setting("legend.fontsize")
    em = size * figure.dpi / 72
    is_dashboard = len(grid.axes) > 1
    left = grid.axes[0].bbox.x0 if grid.is_titled else 0.6 * em
    named, columns = _fitted(grid, runs, (grid.axes[-1].bbox.x1 - left) / em)
    rows = -(-len(runs) // columns)
    x = left / figure.bbox.width
    grid.add_legend_room(x, ((rows - 1) * _ROW if is_dashboard else rows * _ROW + 0.2) * size)
    y = 1 - grid.header_points / 72 / figure.get_figheight()
    samples: list[Any] = [{"color": run.color, "linestyle": run.style} for run in named]
    legend = figure.legend(
        [Line2D([], [], **sample) for sample in samples], [run.name for run in named],
        ncols=columns, frameon=False, fontsize=size,
        loc="upper left" if is_dashboard else "lower left",
        bbox_to_anchor=(x, y), borderpad=0, borderaxespad=0,
        handlelength=_HANDLE, handletextpad=0.5, columnspacing=_GAP, labelspacing=_ROW - 1.15,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_gid("legend")
    return named


def _fitted(grid: FigureGrid, runs: Sequence[RunLine], room: float) -> tuple[Sequence[RunLine], int]:
    """Return the runs with names short enough, and columns enough, that a legend fits into the room (in ems)."""
    size = setting("legend.fontsize")
    probe = grid.figure.text(0, 0, "", fontsize=size)
    try:
        for letters in _LETTERS:
            named, widest = with_short_names(runs, letters), 0.0
            for run in named:
                probe.set_text(run.name)
                widest = max(widest, probe.get_window_extent().width * 72 / grid.figure.dpi / size)
            columns = max(1, int((room + _GAP) / (widest + _HANDLE + 0.5 + _GAP)))
            rows = -(-len(runs) // columns)
            if rows <= _ROWS:
                return named, -(-len(runs) // rows)  # rows of about one length
    finally:
        probe.remove()
    return named, columns
