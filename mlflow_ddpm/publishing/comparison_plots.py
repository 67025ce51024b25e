"""The eleven pictures with several runs in each: same names, titles and axes as those of one run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.plotting.figure import FigureGrid, build_figure
from mlflow_ddpm.plotting.overlay import draw_overlay
from mlflow_ddpm.plotting.plot_table import plot_named
from mlflow_ddpm.plotting.run_styles import RunLine, run_lines, with_short_names
from mlflow_ddpm.plotting.themes import THEMES, check_choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mlflow_ddpm.analysis.run_history import RunHistory

Runs = Sequence[tuple[str, "RunHistory | Sequence[RunHistory]"]]

_MOST_END_LABELS = 5  # more runs get a legend, which has them in the same order in every picture
_LETTERS = (40, 32, 26, 21, 17, 14, 12, 10, 8, 7)  # of names in the legend, tried until it has few rows
_ROWS = 5  # of the legend, at most
_ROW, _HANDLE, _GAP = 1.35, 2.0, 1.4  # height of a row, sample of a line, gap between entries, in the size of letters


def make_comparison(name: str, runs: Runs, *, theme: str = "dark", width: str | None = None, font: str = "") -> Figure:
    """Return one of the eleven plots with all runs, each a name and a history, in it.

    A name with several histories is a group: the mean of its runs, in a band from the lowest to the highest.

    Raises:
        UsageError: no such plot, theme, width or font.
    """
    check_choice("theme", theme, THEMES)
    plot, lines = plot_named(name), run_lines(runs, theme)  # the legend may shorten their names
    worded = lines[0].histories[0].worded
    has_legend = len(plot.panels) > 1 or len(lines) > _MOST_END_LABELS

    def add_header(grid: FigureGrid) -> None:
        if has_legend:
            lines[:] = _add_legend(grid, lines)
        if len(plot.panels) > 1:
            grid.add_header(worded(plot.title), "")

    panels = [
        (worded(panel.title), partial(draw_overlay, quantity=panel.quantity, runs=lines, is_named=not has_legend))
        for panel in plot.panels
    ]
    return build_figure(panels, theme=theme, width=width, font=font, add_header=add_header)


def _add_legend(grid: FigureGrid, runs: Sequence[RunLine]) -> Sequence[RunLine]:
    """Show each run's line and name under the title of the picture, which gets higher by it.

    Returns the runs with their names as they are written.
    """
    from matplotlib import rcParams
    from matplotlib.lines import Line2D

    figure, size = grid.figure, rcParams["legend.fontsize"]
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
    from matplotlib import rcParams

    size = rcParams["legend.fontsize"]
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
