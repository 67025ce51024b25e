"""The eleven pictures with several runs in each: same names, titles and axes as those of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow_ddpm.plots import FigureSet
from mlflow_ddpm.plotting.figure import THEMES, check, head, look, new_canvas, write_figure
from mlflow_ddpm.plotting.overlay import BANDS, OVERLAYS, draw_overlay
from mlflow_ddpm.plotting.plot_table import PLOTS, plot_named, title_of
from mlflow_ddpm.plotting.run_styles import RunLine, run_lines, with_short_names

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["COMPARISON_CAPTIONS", "draw_comparisons", "make_comparison"]

Runs = Sequence[tuple[str, "pd.DataFrame"]]

COMPARISON_CAPTIONS: Mapping[str, str] = {
    "loss_linear": "Mean loss of each epoch; \u2605 marks the best epoch of each run.",
    "loss_log": "The same on a log axis, which shows the early epochs and the late ones alike.",
    "loss_distribution": f"Mean loss, with one standard deviation to either side for up to {BANDS} runs.",
    "learning_rate": "Learning rate of each epoch's last batch.",
    "grad_norm": "Global L2 gradient norm per epoch.",
    "throughput": "Training speed of each epoch.",
    "gpu_memory": "Peak of the allocated CUDA memory; reserved memory is in the pictures of each run.",
    "ema_divergence": "Distance between the live weights and their exponential moving average.",
    "epoch_timing": "Wall-clock seconds of each epoch.",
    "loss_derivative": "Change of the mean loss from the epoch before: below zero it improved.",
    "training_dashboard": "All runs at a glance: loss, its change, learning rate, gradients, EMA, speed and memory.",
}

_NAMES = {plot.panels[0]: plot.name for plot in PLOTS if len(plot.panels) == 1}

# The legend above the dashboard: rows, their distance in the size of the figure's letters, the gap between entries in
# that of its own, and how many letters of names are tried until all fit.
_ROWS, _ROW_EMS, _GAP_EMS = 3, 1.2, 1.6
_LETTERS = (40, 32, 26, 21, 17, 14, 12, 10, 8, 7)


def draw_comparisons(runs: Runs, directory: Path, wanted: FigureSet) -> dict[str, list[Path]]:
    """Write all eleven into a directory that exists; return each plot's files by name.

    Raises:
        UsageError: no such theme, format or width.
    """
    written: dict[str, list[Path]] = {}
    with look(wanted.theme):  # once for all
        for plot in PLOTS:
            for width in (wanted.widths or (None,)) if len(plot.panels) == 1 else (None,):
                figure = make_comparison(plot.name, runs, theme=wanted.theme, width=width)
                stem = f"{plot.name}_double" if width == "double" else plot.name
                files = [write_figure(figure, directory / f"{stem}.{fmt}") for fmt in wanted.formats]
                written.setdefault(plot.name, []).extend(files)
    return written


def make_comparison(name: str, runs: Runs, *, theme: str = "dark", width: str | None = None) -> Figure:
    """Return one of the eleven plots with all runs, each a name and a history, in it.

    Raises:
        UsageError: no such plot, theme or width.
    """
    plot = plot_named(name)
    check("theme", theme, THEMES)
    with look(theme):
        lines = run_lines(runs, theme)
        canvas = new_canvas(theme, len(plot.panels), width)
        for ax, panel in zip(canvas.axes, plot.panels, strict=True):
            canvas.title(ax, title_of(panel))
            draw_overlay(ax, OVERLAYS[_NAMES[panel]], lines, named=len(plot.panels) == 1)
        if len(plot.panels) > 1:
            head(canvas.figure, plot.title, "")
            _legend(canvas.figure, lines)
    return canvas.figure


def _legend(figure: Figure, runs: Sequence[RunLine]) -> None:
    """Write one entry a run beside the title, on as few rows as they need, with as much of the names as fits."""
    from matplotlib import rcParams

    size = rcParams["legend.fontsize"]
    em = size * figure.dpi / 72
    left = max(text.get_window_extent().x1 for text in figure.texts) + 3 * em
    right = figure.axes[-1].bbox.x1
    for letters in _LETTERS:
        named = with_short_names(runs, letters)
        texts = [figure.text(0, 0, _entry(run), color=run.ink, fontsize=size, va="top", gid="legend") for run in named]
        widths = [text.get_window_extent().width for text in texts]
        places = _places(widths, left, right, _GAP_EMS * em)
        if places[-1][1] < _ROWS or letters == _LETTERS[-1]:
            break
        for text in texts:
            text.remove()
    top, row_px = 1.2 * rcParams["font.size"] * figure.dpi / 72, _ROW_EMS * rcParams["font.size"] * figure.dpi / 72
    for text, (x, row) in zip(texts, places, strict=True):
        text.set_position((x / figure.bbox.width, 1 - (top + row * row_px) / figure.bbox.height))


def _entry(run: RunLine) -> str:
    return f"\u2501 {run.name}" if run.style == "-" else f"\u2013 \u2013 {run.name}"


def _places(widths: Sequence[float], left: float, right: float, gap: float) -> list[tuple[float, int]]:
    """Return where each entry begins, in pixels, and its row."""
    places = []
    x, row = left, 0
    for width in widths:
        if x > left and x + width > right:
            x, row = left, row + 1
        places.append((x, row))
        x += width + gap
    return places
