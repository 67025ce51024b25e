"""The eleven plots of a run, as a table, and the one builder that makes any of them a Figure.

A plot is a tuple of panels: ten hold one, the dashboard nine of the same. Panels draw (``mlflow_ddpm.figures``) on a
canvas in one of two looks (``mlflow_ddpm.canvas``). The same history gives the same bytes, on any day and in any
directory.

>>> from mlflow_ddpm.plots import PLOTS
>>> [plot.name for plot in PLOTS][:3]
['loss_linear', 'loss_log', 'loss_distribution']
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlflow_ddpm.canvas import FORMATS, THEMES, check, head, look, new_canvas, width_of, write_figure
from mlflow_ddpm.errors import UsageError
from mlflow_ddpm.figures.headline import headline
from mlflow_ddpm.figures.loss import loss_derivative, loss_distribution, loss_linear, loss_log
from mlflow_ddpm.figures.optimisation import ema_divergence, grad_norm, learning_rate
from mlflow_ddpm.figures.resources import epoch_timing, gpu_memory, throughput
from mlflow_ddpm.history import HistorySource, is_on_another_rank, log_made, read_history
from mlflow_ddpm.plot_data import write_plot_data

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "PLOTS",
    "THEMES",
    "FigureSet",
    "Plot",
    "generate_all_plots",
    "make_figure",
    "plot_named",
    "title_of",
    "write_figures",
]

Panel = Callable[["Axes", "pd.DataFrame"], None]

_SHOWN = ("png", "svg", "pdf")  # what a report can show, best first


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


def plot_named(name: str) -> Plot:
    """Return the table's row of a name.

    Raises:
        UsageError: no such plot.
    """
    check("plot", name, _BY_NAME)
    return _BY_NAME[name]


def title_of(panel: Panel) -> str:
    """Return the title of a panel, which is that of the plot that holds it alone."""
    return _TITLES[panel]


def make_figure(name: str, history: pd.DataFrame, *, theme: str = "dark", width: str | None = None) -> Figure:
    """Return one plot as a Figure of its own, unknown to pyplot; it keeps its look wherever it is drawn or saved.

    ``width`` is that of a paper's column: ``single`` (3.5 in, the default there) or ``double`` (7.2 in, which the
    dashboard always has). It goes with the theme paper, whose pictures have no title: their caption names them.

    Raises:
        UsageError: no such plot, theme or width.
    """
    plot = plot_named(name)
    check("theme", theme, THEMES)
    with look(theme):
        canvas = new_canvas(theme, len(plot.panels), width)
        for ax, panel in zip(canvas.axes, plot.panels, strict=True):
            canvas.title(ax, title_of(panel))
            panel(ax, history)
        if len(plot.panels) > 1:
            head(canvas.figure, plot.title, headline(history))
    return canvas.figure


class FigureSet(NamedTuple):
    """Which files are made of the plots: a theme, some formats and, of the theme paper, some widths.

    Attributes:
        theme: ``dark``, for screens, or ``paper``.
        formats: of png, pdf and svg. Beside the vector formats lie the data: what each picture shows as a CSV, and the
            run's key results as ``training_summary.csv`` and ``training_summary.tex``.
        widths: ``single`` (the default of the theme paper), ``double`` or both. Names of pictures as wide as both
            columns end in ``_double``; the dashboard always is, and keeps its name.
    """

    theme: str = "dark"
    formats: Sequence[str] = ("png",)
    widths: Sequence[str] = ()

    @classmethod
    def of(cls, theme: str, formats: Sequence[str], widths: Sequence[str]) -> FigureSet:
        """Return a set without repeats, and checked; one string is one value. Raises as :meth:`check`."""
        wanted = cls(theme, _listed(formats), _listed(widths))
        wanted.check()
        return wanted

    @classmethod
    def among(cls, theme: str, names: Collection[str]) -> list[FigureSet]:
        """Return the sets that files of these names belong to, one a width: each may have formats of its own."""
        stems = {"single": PLOTS[0].name, "double": f"{PLOTS[0].name}_double"}
        formats = {width: tuple(f for f in FORMATS if f"{stem}.{f}" in names) for width, stem in stems.items()}
        return [cls(theme, of, (width,) if theme == "paper" else ()) for width, of in formats.items() if of]

    @classmethod
    def united(cls, sets: Iterable[FigureSet]) -> list[FigureSet]:
        """Return sets of the same figures, of which none is in two."""
        formats: dict[tuple[str, str], set[str]] = {}
        for one in sets:
            for width in one.widths or ("single",):
                formats.setdefault((one.theme, width), set()).update(one.formats)
        widths: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for (theme, width), of in sorted(formats.items()):
            widths.setdefault((theme, tuple(sorted(of))), []).append(width)
        return [cls(theme, of, tuple(every) if theme == "paper" else ()) for (theme, of), every in widths.items()]

    def check(self) -> None:
        """Refuse what is not offered.

        Raises:
            UsageError: no such theme, format or width.
        """
        if not self.formats:
            raise UsageError(f"formats must be some of {', '.join(FORMATS)}, got none")
        for fmt in self.formats:
            check("format", fmt, FORMATS)
        for width in self.widths or (None,):
            width_of(self.theme, width)


def generate_all_plots(
    source: HistorySource,
    save_dir: str | os.PathLike[str],
    *,
    theme: str = "dark",
    formats: Sequence[str] = ("png",),
    widths: Sequence[str] = (),
) -> dict[str, Path]:
    """Write all eleven plots into ``save_dir``, and return each plot's file by name.

    ``source`` is whatever :func:`mlflow_ddpm.history.read_history` reads: a tracker, a run id, a directory, a CSV, a
    JSON, or a history itself. What was not measured gets a picture too, which says why. :class:`FigureSet` says what
    theme, formats and widths mean. With several formats, the paths returned are of the first one that a report can
    show (png, else svg), and the others lie beside them. A tracker of a rank other than 0 has nothing to draw: nothing
    is written, and no path returned.

    Raises:
        UsageError: no such theme, format or width.
        HistoryError: there is no history to read.
    """
    wanted = FigureSet.of(theme, formats, widths)
    if is_on_another_rank(source):
        return {}
    written = write_figures(read_history(source), Path(save_dir), wanted)
    log_made(source, written)
    first = min(wanted.formats, key=_SHOWN.index)
    paths = [path for path in written if path.suffix == f".{first}"]
    return {plot.name: next(p for p in paths if p.stem in (plot.name, f"{plot.name}_double")) for plot in PLOTS}


def write_figures(history: pd.DataFrame, directory: Path, wanted: FigureSet) -> list[Path]:
    """Write the wanted files of all eleven plots, and return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    with look(wanted.theme):
        written = [path for plot in PLOTS for path in _write_plot(plot, history, directory, wanted)]
    if {"pdf", "svg"} & set(wanted.formats):
        written += write_plot_data(history, (plot.name for plot in PLOTS), directory)
    return written


def _write_plot(plot: Plot, history: pd.DataFrame, directory: Path, wanted: FigureSet) -> Iterator[Path]:
    is_alone = len(plot.panels) == 1
    for width in (wanted.widths or (None,)) if is_alone else (None,):
        figure = make_figure(plot.name, history, theme=wanted.theme, width=width)
        stem = f"{plot.name}_double" if width == "double" else plot.name
        for fmt in wanted.formats:
            yield write_figure(figure, directory / f"{stem}.{fmt}")


def _listed(values: Sequence[str]) -> tuple[str, ...]:
    """Return a sequence without repeats; one string is one value."""
    return (values,) if isinstance(values, str) else tuple(dict.fromkeys(values))
