"""The eleven plots of a run: :func:`generate_all_plots` writes them, :func:`make_figure` makes one of them.

What a plot is stands in one row of :data:`mlflow_ddpm.plotting.plot_table.PLOTS`. The same history gives the same
bytes, on any day and in any directory.

>>> from mlflow_ddpm.plotting.plot_table import PLOTS
>>> [plot.name for plot in PLOTS][:3]
['loss_linear', 'loss_log', 'loss_distribution']
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_ddpm.analysis.history import HistorySource, is_on_another_rank, load_history, log_made
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.csv_table import csv_bytes
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.plotting.comparison import draw_overlay
from mlflow_ddpm.plotting.figure import FORMATS, WIDTHS, FigureGrid, build_figure, width_of, write_figure
from mlflow_ddpm.plotting.plot_table import PLOTS, plot_columns, plot_named
from mlflow_ddpm.plotting.run_styles import MOST_END_LABELS, NamedRuns, add_legend, run_lines
from mlflow_ddpm.plotting.text import run_subtitle
from mlflow_ddpm.plotting.themes import FONTS, THEMES, check_choice, font_families, theme_context
from mlflow_ddpm.reporting.paper_tables import write_key_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FONTS", "THEMES", "FigureSet", "generate_all_plots", "make_figure", "write_figures", "write_plots"]

_SHOWABLE = ("png", "svg", "pdf")  # what a report can show, best first
CAPTIONS_NAME = "captions.txt"
# Facts of a figure that its sentence has already; in a dashboard's, a panel's name ends them.
_READ = re.compile(
    r"(best|highest|last|median|peak) .*|[\d\u2212]\S* (throughout|at (epoch|step) \S+)|training time .* in .*"
)


def make_figure(
    name: str, source: HistorySource, *, theme: str = "dark", width: str | None = None, font: str = ""
) -> Figure:
    """Return one plot as a Figure of its own, unknown to pyplot; it keeps its look wherever it is drawn or saved.

    ``width`` is that of a paper's column: ``single`` (3.5 in, the default there) or ``double`` (7.2 in, which the
    dashboard always has). It goes with the theme paper, whose pictures have no title: their caption names them. What
    the caption should mention beside it is in ``figure.facts``. ``font`` is ``serif`` or ``sans``; see
    :class:`FigureSet`.

    Raises:
        UsageError: no such plot, theme, width or font.
    """
    plot, history = plot_named(name), load_history(source)

    def add_header(grid: FigureGrid) -> None:
        if len(plot.panels) > 1:
            grid.add_header(history.worded(plot.title), run_subtitle(history, grid.letters))

    panels = [
        (history.worded(panel.title), partial(panel.draw, quantity=panel.quantity, history=history))
        for panel in plot.panels
        if panel.draw is not None
    ]
    return build_figure(panels, theme=theme, width=width, font=font, add_header=add_header)


def make_comparison(
    name: str, runs: NamedRuns, *, theme: str = "dark", width: str | None = None, font: str = ""
) -> Figure:
    """Return one of the eleven plots with all runs, each a name and a history, in it: as :func:`make_figure` of one.

    A name with several histories is a group: the mean of its runs, in a band from the lowest to the highest.

    Raises:
        UsageError: no such plot, theme, width or font.
    """
    check_choice("theme", theme, THEMES)
    plot, lines = plot_named(name), run_lines(runs, theme)  # the legend may shorten their names
    worded = lines[0].histories[0].worded
    has_legend = len(plot.panels) > 1 or len(lines) > MOST_END_LABELS

    def add_header(grid: FigureGrid) -> None:
        if has_legend:
            lines[:] = add_legend(grid, lines)
        if len(plot.panels) > 1:
            grid.add_header(worded(plot.title), "")

    panels = [
        (worded(panel.title), partial(draw_overlay, quantity=panel.quantity, runs=lines, is_named=not has_legend))
        for panel in plot.panels
    ]
    return build_figure(panels, theme=theme, width=width, font=font, add_header=add_header)


class FigureSet(NamedTuple):
    """Which files are made of the plots: a theme, some formats and, of the theme paper, some widths and a font.

    Attributes:
        theme: ``dark``, for screens, or ``paper``.
        formats: of png, pdf and svg. Beside the vector formats lie the data: what each picture shows as a CSV, and the
            run's key results as ``training_summary.csv`` and ``training_summary.tex``. Beside the theme paper's lies
            ``captions.txt``: what a caption of each picture should mention.
        widths: ``single`` (the default of the theme paper), ``double`` or both. Names of pictures as wide as both
            columns end in ``_double``; the dashboard always is, and keeps its name.
        font: "" (DejaVu Sans), ``serif`` (STIX, like Times), or ``sans`` (the first installed font like Helvetica).
    """

    theme: str = "dark"
    formats: Sequence[str] = ("png",)
    widths: Sequence[str] = ()
    font: str = ""

    @classmethod
    def create(cls, theme: str, formats: Sequence[str], widths: Sequence[str], font: str = "") -> FigureSet:
        """Return a set without repeats, and checked; one string is one value. Raises as :meth:`check`."""
        wanted = cls(theme, _listed(formats), _listed(widths), font)
        wanted.check()
        return wanted

    @classmethod
    def from_file_names(cls, folder: str, names: Collection[str]) -> FigureSet | None:
        """Return the set that files of these names in a folder belong to; None if no figures are among them."""
        theme, _, font = folder.partition("-")
        stems = {"single": PLOTS[0].name, "double": f"{PLOTS[0].name}_double"}
        files = [(width, fmt) for width, stem in stems.items() for fmt in FORMATS if f"{stem}.{fmt}" in names]
        formats = _listed([fmt for _, fmt in files])
        widths = _listed([width for width, _ in files])
        return cls(theme, formats, widths if theme == "paper" else (), font) if files else None

    @classmethod
    def merge(cls, sets: Iterable[FigureSet]) -> list[FigureSet]:
        """Return one set for each folder, with all formats and widths of the sets of that folder."""
        merged: dict[str, FigureSet] = {}
        for figures in sets:
            widths = figures.widths or (WIDTHS[:1] if figures.theme == "paper" else ())
            before = merged.get(figures.folder, figures._replace(formats=(), widths=()))
            formats, widths = _listed([*before.formats, *figures.formats]), _listed([*before.widths, *widths])
            merged[figures.folder] = before._replace(formats=formats, widths=widths)
        return list(merged.values())

    @property
    def folder(self) -> str:
        """The folder of a run's further figures: the theme, and the font if one was chosen."""
        return f"{self.theme}-{self.font}" if self.font else self.theme

    def check(self) -> None:
        """Raise UsageError for a theme, format, width or font that is not offered."""
        if not self.formats:
            raise UsageError(f"formats must be some of {', '.join(FORMATS)}, got none")
        for fmt in self.formats:
            check_choice("format", fmt, FORMATS)
        for width in self.widths or (None,):
            width_of(self.theme, width)
        if self.font and self.theme != "paper":
            raise UsageError(f"font {self.font!r} goes with the theme paper, got {self.theme!r}")
        if self.font:  # asking for the installed ones loads matplotlib, which other ranks need not
            font_families(self.font)


FOLDERS = tuple(
    f"{theme}-{font}" if font else theme for theme in THEMES for font in FONTS if theme == "paper" or not font
)


def generate_all_plots(
    source: HistorySource | RunHistory,
    save_dir: str | os.PathLike[str],
    *,
    theme: str = "dark",
    formats: Sequence[str] = ("png",),
    widths: Sequence[str] = (),
    font: str = "",
) -> dict[str, Path]:
    """Write all eleven plots into ``save_dir``, and return each plot's file by name.

    ``source`` is whatever :func:`mlflow_ddpm.read_history` reads: a tracker, a run id, a directory, a CSV, a
    JSON, or a history itself. What was not measured gets a picture too, which gives the reason. :class:`FigureSet`
    explains theme, formats, widths and font. With several formats, the paths returned are of the first one that a
    report can show (png, else svg), and the others lie beside them. A tracker of a rank other than 0 has nothing to
    draw: nothing is written, and no path returned.

    Raises:
        UsageError: no such theme, format, width or font.
        HistoryError: there is no history to read.
    """
    wanted = FigureSet.create(theme, formats, widths, font)
    if is_on_another_rank(source):
        return {}
    written = write_figures(load_history(source), Path(save_dir), wanted)
    log_made(source, written)
    first = min(wanted.formats, key=_SHOWABLE.index)
    paths = [path for path in written if path.suffix == f".{first}"]
    return {plot.name: next(p for p in paths if p.stem in (plot.name, f"{plot.name}_double")) for plot in PLOTS}


def write_figures(history: RunHistory, directory: Path, wanted: FigureSet) -> list[Path]:
    """Write the wanted files of all eleven plots of a run, and return their paths."""
    captions: dict[str, str] = {}

    def make(name: str, **look: Any) -> Figure:
        figure = make_figure(name, history, **look)
        if wanted.theme == "paper":
            text = _caption(name, history, getattr(figure, "facts", None) or ())
            if captions.setdefault(name, text) != text:  # the wider of two pictures may have more points
                captions[f"{name}_double"] = text
        return figure

    written = [path for paths in write_plots(make, directory, wanted).values() for path in paths]
    if {"pdf", "svg"} & set(wanted.formats):
        written += [write_plot_data(plot.name, history, directory) for plot in PLOTS]
        written += write_key_results(history, directory)
    if wanted.theme == "paper":
        path = directory / CAPTIONS_NAME
        replace_file(path, "".join(f"{name}: {text}\n\n" for name, text in captions.items()).encode())
        written.append(path)
    return written


def write_plot_data(name: str, history: RunHistory, directory: Path) -> Path:
    """Write the numbers that a plot shows as a CSV beside its pictures."""
    columns, path = plot_columns(name, history), directory / f"{name}.csv"
    replace_file(path, csv_bytes(list(columns), zip(*columns.values(), strict=True)))
    return path


def _caption(name: str, history: RunHistory, facts: Iterable[str]) -> str:
    """Return what a caption of a plot should mention."""
    plot, unread = plot_named(name), [fact for fact in dict.fromkeys(facts) if not _READ.fullmatch(fact)]
    text = f"{history.worded(plot.caption)} {plot.describe(history)}"
    return f"{text} {unread[0][0].upper()}{'; '.join(unread)[1:]}." if unread else text


def write_plots(make: Callable[..., Figure], directory: Path, wanted: FigureSet) -> dict[str, list[Path]]:
    """Write the wanted files of all eleven plots, made by ``make`` as by :func:`make_figure`; return them by plot."""
    directory.mkdir(parents=True, exist_ok=True)
    written: dict[str, list[Path]] = {plot.name: [] for plot in PLOTS}
    with theme_context(wanted.theme, wanted.font):  # once for all
        for plot in PLOTS:
            for width in (wanted.widths or (None,)) if len(plot.panels) == 1 else (None,):
                figure = make(plot.name, theme=wanted.theme, width=width, font=wanted.font)
                stem = f"{plot.name}_double" if width == "double" else plot.name
                written[plot.name] += [write_figure(figure, directory / f"{stem}.{fmt}") for fmt in wanted.formats]
    return written


def _listed(values: Sequence[str]) -> tuple[str, ...]:
    """Return a sequence without repeats; one string is one value."""
    return (values,) if isinstance(values, str) else tuple(dict.fromkeys(values))
