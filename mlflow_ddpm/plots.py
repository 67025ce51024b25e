"""The eleven plots of a run, as a table, and the one builder that makes any of them a Figure.

A plot is a tuple of panels: ten hold one, the dashboard nine of the same. Panels draw (``mlflow_ddpm.figures``) on a
canvas in one of two themes. The same history gives the same bytes, on any day and in any
directory.

>>> from mlflow_ddpm.plotting.plot_table import PLOTS
>>> [plot.name for plot in PLOTS][:3]
['loss_linear', 'loss_log', 'loss_distribution']
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlflow_ddpm.analysis.frame import rows_from_frame
from mlflow_ddpm.analysis.history import HistorySource, is_on_another_rank, log_made, read_history
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.plotting.figure import FORMATS, THEMES, check, head, look, new_canvas, width_of, write_figure
from mlflow_ddpm.plotting.headline import headline
from mlflow_ddpm.plotting.plot_data import write_plot_data
from mlflow_ddpm.plotting.plot_table import PLOTS, Plot, plot_named, title_of
from mlflow_ddpm.reporting.summary_files import write_summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = [
    "THEMES",
    "FigureSet",
    "generate_all_plots",
    "make_figure",
    "write_figures",
]

_SHOWN = ("png", "svg", "pdf")  # what a report can show, best first


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

    ``source`` is whatever :func:`mlflow_ddpm.read_history` reads: a tracker, a run id, a directory, a CSV, a
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
        written += write_summary(rows_from_frame(history), directory)
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
