"""The eleven plots of a run, as a table, and the one builder that makes any of them a Figure.

A plot is a tuple of panels: ten hold one, the dashboard nine of the same. Panels draw (``mlflow_ddpm.figures``), the
two style sheets say how it looks, and this module alone builds figures and writes files. It never touches pyplot, and
no setting of matplotlib outlives a call. The same history gives the same bytes, on any day and in any directory.

>>> from mlflow_ddpm.plots import PLOTS
>>> [plot.name for plot in PLOTS][:3]
['loss_linear', 'loss_log', 'loss_distribution']
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_ddpm.errors import UsageError
from mlflow_ddpm.figures.headline import headline
from mlflow_ddpm.figures.loss import loss_derivative, loss_distribution, loss_linear, loss_log
from mlflow_ddpm.figures.optimisation import ema_divergence, grad_norm, learning_rate
from mlflow_ddpm.figures.resources import epoch_timing, gpu_memory, throughput
from mlflow_ddpm.files import replace_file
from mlflow_ddpm.history import HistorySource, is_on_another_rank, log_made, read_history

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PLOTS", "THEMES", "Plot", "generate_all_plots", "make_figure"]

Panel = Callable[["Axes", "pd.DataFrame"], None]

THEMES = ("dark", "paper")
_STYLES = Path(__file__).parent / "styles"


class Plot(NamedTuple):
    """One row of the table: file name without suffix, title, what is drawn, and one sentence on how to read it."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    caption: str


PLOTS: tuple[Plot, ...] = (
    Plot(
        "loss_linear",
        "Loss (Linear)",
        (loss_linear,),
        "Training loss with best-epoch marker (★) and min/max band.",
    ),
    Plot(
        "loss_log",
        "Loss (Log Scale)",
        (loss_log,),
        "The same on a log axis, which shows the early epochs and the late ones alike.",
    ),
    Plot(
        "loss_distribution",
        "Loss Distribution",
        (loss_distribution,),
        "Mean and median loss of each epoch's batches; the band is one standard deviation to either side of the mean.",
    ),
    Plot(
        "learning_rate",
        "Learning Rate",
        (learning_rate,),
        "Learning rate of each epoch's last batch.",
    ),
    Plot(
        "grad_norm",
        "Gradient Norm",
        (grad_norm,),
        "Global L2 gradient norm per epoch. Spikes indicate potential instability.",
    ),
    Plot(
        "throughput",
        "Throughput",
        (throughput,),
        "Training speed of each epoch; the dashed line is the median.",
    ),
    Plot(
        "gpu_memory",
        "GPU Memory",
        (gpu_memory,),
        "CUDA memory allocation over training. Useful for capacity planning on multi-GPU nodes.",
    ),
    Plot(
        "ema_divergence",
        "EMA Divergence",
        (ema_divergence,),
        "Distance between the live weights and their exponential moving average.",
    ),
    Plot(
        "epoch_timing",
        "Epoch Timing",
        (epoch_timing,),
        "Wall-clock seconds of each epoch; the dashed line is the median.",
    ),
    Plot(
        "loss_derivative",
        "Loss Derivative",
        (loss_derivative,),
        "Change of the mean loss from the epoch before: below zero (green) it improved, above (red) it worsened.",
    ),
    Plot(
        "training_dashboard",
        "Training Dashboard",
        (
            loss_linear, loss_log, loss_derivative,
            learning_rate, grad_norm, ema_divergence,
            throughput, epoch_timing, gpu_memory,
        ),
        "3\u00d73 overview: loss, LR, gradients, throughput, GPU memory, EMA divergence, timing, and loss derivative.",
    ),
)  # fmt: skip

_TITLES = {plot.panels[0]: plot.title for plot in PLOTS if len(plot.panels) == 1}
_BY_NAME = {plot.name: plot for plot in PLOTS}

# Margins around axes in the size of their letters, fixed rather than fitted: text that grows them would move the axes
# of one run's picture against another's, and fitting costs a second drawing.
_LEFT, _RIGHT, _BOTTOM, _TOP = 6.2, 1.6, 4.1, 4.4
_HEADLINE = 3.6  # above the dashboard's panels
_CELL_WIDTH, _CELL_HEIGHT = 2 / 3, 0.78  # a panel of the dashboard against a picture of its own

_METADATA: dict[str, dict[str, Any]] = {  # what would otherwise tell the day or matplotlib's version
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


def make_figure(name: str, history: pd.DataFrame, *, theme: str = "dark") -> Figure:
    """Return one plot as a Figure of its own, unknown to pyplot; it keeps its look wherever it is drawn or saved.

    Raises:
        UsageError: no such plot or theme.
    """
    _check("plot", name, _BY_NAME)
    _check("theme", theme, THEMES)
    plot = _BY_NAME[name]
    with _look(theme):
        figure = _themed_figure(theme)
        for ax, panel in zip(_axes(figure, plot), plot.panels, strict=True):
            ax.set_title(_TITLES[panel])
            panel(ax, history)
        if len(plot.panels) > 1:
            _finish_grid(figure, plot, history)
    return figure


def generate_all_plots(
    source: HistorySource, save_dir: str | os.PathLike[str], *, theme: str = "dark", formats: Sequence[str] = ("png",)
) -> dict[str, Path]:
    """Write all eleven plots into ``save_dir``, and return each plot's file by name.

    ``source`` is whatever :func:`mlflow_ddpm.history.read_history` reads: a tracker, a run id, a directory, a CSV, a
    JSON, or a history itself. What was not measured gets a picture too, which says why. ``formats`` are of png, pdf and
    svg; with several, the paths returned are of the first and the others lie beside them. A tracker of a rank other
    than 0 has nothing to draw: nothing is written, and no path returned.

    Raises:
        UsageError: no such theme or format.
        HistoryError: there is no history to read.
    """
    formats = [formats] if isinstance(formats, str) else formats
    if not formats:
        raise UsageError(f"formats must be some of {', '.join(_METADATA)}, got none")
    for fmt in formats:
        _check("format", fmt, _METADATA)
    _check("theme", theme, THEMES)
    if is_on_another_rank(source):
        return {}
    history = read_history(source)
    directory = Path(save_dir)
    directory.mkdir(parents=True, exist_ok=True)
    paths = {}
    for plot in PLOTS:
        figure = make_figure(plot.name, history, theme=theme)
        written = [_write(figure, directory / f"{plot.name}.{fmt}", fmt) for fmt in formats]
        paths[plot.name] = written[0]
        log_made(source, written)
    return paths


def _check(what: str, value: str, offered: Collection[str]) -> None:
    if value not in offered:
        raise UsageError(f"{what} must be one of {', '.join(offered)}, got {value!r}")


def _write(figure: Figure, path: Path, fmt: str) -> Path:
    buffer = BytesIO()
    figure.savefig(buffer, format=fmt, metadata=_METADATA[fmt])
    replace_file(path, buffer.getvalue())
    return path


@contextmanager
def _look(theme: str) -> Iterator[None]:
    """Apply a theme's style sheet to matplotlib's own defaults, whatever the user's settings are, and take it back."""
    from matplotlib import style

    with style.context(_STYLES / f"{theme}.mplstyle", after_reset=True):
        yield


def _themed_figure(theme: str) -> Figure:
    """Return an empty Figure that is drawn and saved under its theme, since matplotlib reads settings until then."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class ThemedFigure(Figure):
        def draw(self, renderer: Any) -> None:
            with _look(theme):
                super().draw(renderer)

        def savefig(self, fname: Any, **kwargs: Any) -> None:
            with _look(theme):
                super().savefig(fname, **kwargs)

    figure = ThemedFigure()
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, plot: Plot) -> list[Axes]:
    """Return axes for the plot's panels, row by row, on a figure made large enough for them."""
    from matplotlib import rcParams

    side = round(len(plot.panels) ** 0.5)
    em = rcParams["font.size"] / 72
    width, height = figure.get_size_inches() / em
    head = 0.0
    if side > 1:
        width, height, head = width * _CELL_WIDTH, height * _CELL_HEIGHT, _HEADLINE
    total_width, total_height = side * width, side * height + head
    figure.set_size_inches(total_width * em, total_height * em)
    return [
        figure.add_axes(
            (
                (column * width + _LEFT) / total_width,
                ((side - 1 - row) * height + _BOTTOM) / total_height,
                (width - _LEFT - _RIGHT) / total_width,
                (height - _BOTTOM - _TOP) / total_height,
            )
        )
        for row in range(side)
        for column in range(side)
    ]


def _finish_grid(figure: Figure, plot: Plot, history: pd.DataFrame) -> None:
    """Put the plot's title and the run's key facts above its panels."""
    from matplotlib import rcParams

    em_px = rcParams["font.size"] * figure.dpi / 72
    x, y = 1.6 * em_px / figure.bbox.width, 1 - 1.2 * em_px / figure.bbox.height
    figure.text(x, y, plot.title, fontsize=rcParams["figure.titlesize"], fontweight="bold", va="top")
    figure.text(1 - x, y, headline(history), ha="right", va="top", color=rcParams["axes.labelcolor"])
