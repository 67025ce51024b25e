"""Figures to draw on: two looks, the sizes they are read at, panels in a grid, and files that tell no date.

A look is a style sheet over matplotlib's own defaults, whatever the user's settings are. The dark one is for screens;
the paper one has the widths of a printed page's columns, so that its letters are printed in the size that the sheet
says. Nothing here touches pyplot, and no setting of matplotlib outlives a call.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.plotting.annotations import NOTE_ROW
from mlflow_ddpm.plotting.png import render_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "THEMES", "WIDTHS", "Canvas", "check", "head", "look", "new_canvas", "width_of", "write_figure"]

THEMES = ("dark", "paper")
WIDTHS = ("single", "double")  # of the paper theme: a column of a two-column page, and both columns
FORMATS = ("png", "pdf", "svg")
_STYLES = Path(__file__).parent / "styles"


class _Size(NamedTuple):
    """Inches of a picture with one panel, and of one panel of a grid."""

    width: float
    height: float
    cell_width: float
    cell_height: float


_SCREEN = "screen"
_PAPER_CELL = (7.2 / 3, 2.0)  # a grid takes both columns in any case: letters of 7 pt do not fit three times into one
_SIZES = {
    _SCREEN: _Size(7.2, 4.5, 4.8, 3.6),
    "single": _Size(3.5, 2.4, *_PAPER_CELL),
    "double": _Size(7.2, 3.0, *_PAPER_CELL),
}

# Margins around axes in the size of their letters, fixed rather than fitted: text that grows them would move the axes
# of one run's picture against another's, and fitting costs a second drawing.
_LEFT, _RIGHT, _BOTTOM = 6.2, 1.6, 3.9
_TITLED, _UNTITLED, _IN_GRID = 4.4, 3.4, 5.4  # above: title and a row of notes; two rows of notes; title and two rows
_HEAD = 4.6  # above a grid: its title and a line of words

_METADATA: dict[str, dict[str, Any]] = {  # what would otherwise tell the day or matplotlib's version
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


class Canvas(NamedTuple):
    """An empty figure and the axes of its panels, row by row."""

    figure: Figure
    axes: list[Axes]
    titled: bool  # a printed picture of its own has its caption instead

    def title(self, ax: Axes, text: str) -> None:
        """Write a panel's title above its notes, where it has one."""
        from matplotlib import rcParams

        second = NOTE_ROW * rcParams["legend.fontsize"] if len(self.axes) > 1 else 0.0
        if self.titled:
            ax.set_title(text, pad=rcParams["axes.titlepad"] + second)


def check(what: str, value: str, offered: Collection[str]) -> None:
    """Refuse a value that is not offered.

    Raises:
        UsageError: naming what is offered.
    """
    if value not in offered:
        raise UsageError(f"{what} must be one of {', '.join(offered)}, got {value!r}")


def width_of(theme: str, width: str | None) -> str:
    """Return the width that a theme's figure has, asked for or not.

    Raises:
        UsageError: no such theme or width, or a column's width for the theme of screens.
    """
    check("theme", theme, THEMES)
    if theme == "paper":
        check("width", width or WIDTHS[0], WIDTHS)
        return width or WIDTHS[0]
    if width is not None:
        raise UsageError(f"width {width!r} is that of a paper's column; it goes with the theme paper, got {theme!r}")
    return _SCREEN


@contextmanager
def look(theme: str) -> Iterator[None]:
    """Apply a theme's style sheet to matplotlib's own defaults, whatever the user's settings are, and take it back.

    Within itself it does nothing: going through all settings takes a twentieth of a figure's time.
    """
    from matplotlib import style

    if _present.get() == theme:
        yield
        return
    token = _present.set(theme)
    try:
        with style.context(_sheet(theme), after_reset=True):
            yield
    finally:
        _present.reset(token)


_present: ContextVar[str] = ContextVar("theme", default="")  # whose look is on


@cache
def _sheet(theme: str) -> Any:
    """Return a style sheet's settings; reading one takes as long as drawing a panel."""
    from matplotlib import rc_params_from_file

    settings: Any = rc_params_from_file(_STYLES / f"{theme}.mplstyle", use_default_template=False)
    return dict(settings)


def new_canvas(theme: str, panels: int, width: str | None = None) -> Canvas:
    """Return a figure unknown to pyplot with axes for so many panels (a square number); call it under :func:`look`.

    The figure is drawn and saved under its theme, whenever and by whomever.

    Raises:
        UsageError: as :func:`width_of`.
    """
    size, side = _SIZES[width_of(theme, width)], round(panels**0.5)
    figure = _themed_figure(theme)
    titled = side > 1 or theme != "paper"
    return Canvas(figure, _grid(figure, size, side, _IN_GRID if side > 1 else _TITLED if titled else _UNTITLED), titled)


def head(figure: Figure, title: str, words: str) -> None:
    """Write a grid's title and a line of words above its panels, at the left edge of their axes."""
    from matplotlib import rcParams

    em = rcParams["font.size"] * figure.dpi / 72
    x = figure.axes[0].get_position().x0
    large = rcParams["figure.titlesize"] / rcParams["font.size"]
    below = 1.2 + 1.25 * large  # in the size of letters, from the upper edge
    figure.text(
        x, 1 - 1.2 * em / figure.bbox.height, title, fontsize=rcParams["figure.titlesize"], fontweight="bold", va="top"
    )
    figure.text(x, 1 - below * em / figure.bbox.height, words, va="top", color=rcParams["axes.labelcolor"])


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure in the format that the path's suffix names, all or nothing; the same figure gives the same bytes.

    Raises:
        UsageError: no such format.
        OSError: the disk is full, read-only or gone; an earlier file is untouched.
    """
    fmt = path.suffix.removeprefix(".")
    check("format", fmt, FORMATS)
    replace_file(path, _png(figure) if fmt == "png" else _vectors(figure, fmt))
    return path


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return render_png(np.asarray(canvas.buffer_rgba()), figure.dpi)


def _vectors(figure: Figure, fmt: str) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format=fmt, metadata=_METADATA[fmt])
    return buffer.getvalue()


def _themed_figure(theme: str) -> Figure:
    """Return an empty Figure that is drawn and saved under its theme, since matplotlib reads settings until then."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class ThemedFigure(Figure):
        def draw(self, renderer: Any) -> None:
            with look(theme):
                super().draw(renderer)

        def savefig(self, fname: Any, **kwargs: Any) -> None:
            with look(theme):
                super().savefig(fname, **kwargs)

    figure = ThemedFigure()
    FigureCanvasAgg(figure)
    return figure


def _grid(figure: Figure, size: _Size, side: int, top: float) -> list[Axes]:
    """Return axes for side x side panels, row by row, on the figure made as large as they need."""
    from matplotlib import rcParams

    em = rcParams["font.size"] / 72
    width, height, above = size.width / em, size.height / em, 0.0
    if side > 1:
        width, height, above = size.cell_width / em, size.cell_height / em, _HEAD
    total_width, total_height = side * width, side * height + above
    figure.set_size_inches(total_width * em, total_height * em)
    return [
        figure.add_axes(
            (
                (column * width + _LEFT) / total_width,
                ((side - 1 - row) * height + _BOTTOM) / total_height,
                (width - _LEFT - _RIGHT) / total_width,
                (height - _BOTTOM - top) / total_height,
            )
        )
        for row in range(side)
        for column in range(side)
    ]
