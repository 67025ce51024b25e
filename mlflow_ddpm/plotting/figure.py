"""Figures to draw on: two themes, the sizes they are read at, panels in a grid, and files without dates.

A theme is a style sheet over matplotlib's own defaults, whatever the user's settings are. The dark one is for screens;
the paper one has the widths of a printed page's columns, so that its letters are printed in the sheet's size. Nothing
here touches pyplot, and no setting of matplotlib outlives a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.plotting.notes import NOTE_ROW, note_rows
from mlflow_ddpm.plotting.themes import THEMES, check_choice, setting, theme_context

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = ("single", "double")  # of the paper theme: a column of a two-column page, and both columns
FORMATS = ("png", "pdf", "svg")


_SCREEN = "screen"
_PAPER_CELL = (7.2 / 3, 2.0)  # a grid takes both columns in any case: letters of 7 pt do not fit three times into one
_SIZES = {  # inches of a picture with one panel, and of one panel of a grid
    _SCREEN: ((7.2, 4.5), (4.8, 3.6)),
    "single": ((3.5, 2.4), _PAPER_CELL),
    "double": ((7.2, 3.0), _PAPER_CELL),
}

# Margins around axes in the size of their letters, fixed rather than fitted: text that grows them would move the axes
# of one run's picture against another's, and fitting costs a second drawing.
_LEFT, _RIGHT, _BOTTOM = 6.4, 1.6, 3.9
_TITLED, _UNTITLED = 5.3, 3.4  # above: a title and two rows of notes, or two rows of notes
_NOTE_ROWS, _LEGEND_GAP = 2, 2.0  # of a grid's panels; points under a legend
_HEAD = 4.6  # above a grid: its title and a line of words
_LETTERS_PER_EM = 1.5  # of words, not of a run of wide letters
_PNG_LEVEL = 3  # of zlib's nine: the next takes half as long again and saves a tenth of the size

_METADATA: dict[str, dict[str, Any]] = {  # what would otherwise name the day or matplotlib's version
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}


@dataclass
class FigureGrid:
    """An empty figure and the axes of its panels, row by row."""

    figure: Figure
    axes: list[Axes]
    is_titled: bool  # a printed picture of its own has its caption instead
    legend_x: float = 0.0  # where a legend between title and notes begins,
    legend_points: float = 0.0  # and how high it is

    def add_title(self, ax: Axes, text: str) -> None:
        """Write a panel's title, where it has one, above its notes; between both stands the legend, if there is one."""
        is_alone = len(self.axes) == 1
        rows = note_rows(ax) if is_alone else _NOTE_ROWS
        pad = setting("axes.titlepad") + NOTE_ROW * (rows - 1) * setting("legend.fontsize")
        if self.is_titled:
            above = self.legend_points if is_alone else 0.0
            ax.set_title(text, family=setting("font.family")[0], pad=pad + above)
        if self.legend_points and is_alone:
            y = ax.get_position().y1 + (pad - _LEGEND_GAP) / 72 / self.figure.get_figheight()
            self.figure.legends[0].set_bbox_to_anchor((self.legend_x, y), transform=self.figure.transFigure)

    @property
    def letters(self) -> int:
        """How many letters a line of words over the whole width has."""
        return int(_LETTERS_PER_EM * self.figure.get_figwidth() * 72 / setting("font.size"))

    @property
    def header_points(self) -> float:
        """The height of a grid's title, from the upper edge."""
        return float(1.2 * setting("font.size") + 1.25 * setting("figure.titlesize"))

    def add_header(self, title: str, words: str) -> None:
        """Write a grid's title and a line of words above its panels, at the left edge of their axes."""
        figure, point = self.figure, 1 / 72 / self.figure.get_figheight()
        x, y = self.axes[0].get_position().x0, 1 - 1.2 * setting("font.size") * point
        family = setting("font.family")[0]  # titles are ours; the families after it, for names, may have no bold face
        size = setting("figure.titlesize")
        figure.text(x, y, title, fontsize=size, family=family, fontweight="bold", va="top")
        figure.text(x, 1 - self.header_points * point, words, va="top", color=setting("axes.labelcolor"))

    def add_legend_room(self, x: float, points: float) -> None:
        """Make the figure higher, but not its axes, by a legend that begins at x, a fraction of the figure."""
        figure, inches = self.figure, points / 72
        self.legend_x, self.legend_points = x, points
        height = figure.get_figheight()
        shrink = height / (height + inches)
        for ax in self.axes:
            left, bottom, width, high = ax.get_position().bounds
            ax.set_position((left, bottom * shrink, width, high * shrink))
        figure.set_size_inches(figure.get_figwidth(), height + inches)


def build_figure(
    panels: Sequence[tuple[str, Callable[[Axes], None]]],
    *,
    theme: str = "dark",
    width: str | None = None,
    font: str = "",
    add_header: Callable[[FigureGrid], None] | None = None,
) -> Figure:
    """Return a figure of one panel or a square of them: each a title, and what draws it on its axes.

    The figure is unknown to pyplot. It is drawn and saved under its theme, whenever and by whomever.

    Raises:
        UsageError: no such theme, width or font.
    """
    side = round(len(panels) ** 0.5)
    single, cell = _SIZES[width_of(theme, width)]
    with theme_context(theme, font):
        figure = _figure_class(theme, font)()
        is_titled = side > 1 or theme != "paper"
        axes = _add_axes(figure, cell if side > 1 else single, side, _TITLED if is_titled else _UNTITLED)
        grid = FigureGrid(figure, axes, is_titled)
        if add_header is not None:
            add_header(grid)
        facts: dict[str, list[str]] = {}  # each with the titles of the panels that it is of
        for ax, (title, draw) in zip(axes, panels, strict=True):
            draw(ax)
            grid.add_title(ax, title)
            for fact in dict.fromkeys(figure.facts or ()):
                facts.setdefault(fact, []).append(title)
            figure.facts = None if figure.facts is None else []
        if figure.facts is not None:  # of a grid, a fact of few panels names them
            figure.facts = [
                f"{fact} in {', '.join(titles)}" if side > 1 and len(titles) <= side else fact
                for fact, titles in facts.items()
            ]
    result: Figure = figure
    return result


def width_of(theme: str, width: str | None) -> str:
    """Return the width that a theme's figure has, asked for or not; raise UsageError for one that it cannot have."""
    check_choice("theme", theme, THEMES)
    if theme == "paper":
        check_choice("width", width or WIDTHS[0], WIDTHS)
        return width or WIDTHS[0]
    if width is not None:
        raise UsageError(f"width {width!r} is that of a paper's column; it goes with the theme paper, got {theme!r}")
    return _SCREEN


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure in the format that the suffix names, all or nothing; the same figure gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    fmt = path.suffix.removeprefix(".")
    check_choice("format", fmt, FORMATS)
    buffer = BytesIO()
    if fmt == "png":
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        image = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
        image.save(buffer, format="PNG", compress_level=_PNG_LEVEL, dpi=(figure.dpi, figure.dpi))
    else:
        figure.savefig(buffer, format=fmt, metadata=_METADATA[fmt])
    replace_file(path, buffer.getvalue())
    return path


@cache
def _figure_class(theme: str, font: str) -> Any:
    """Return the class of figures that are drawn and saved under a theme: matplotlib reads settings until then.

    It is made once for each theme, since matplotlib takes long to document a new one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class ThemedFigure(Figure):
        def __init__(self) -> None:
            super().__init__()
            FigureCanvasAgg(self)
            self.facts: list[str] | None = [] if theme == "paper" else None  # what its caption should mention

        def draw(self, renderer: Any) -> None:
            with theme_context(theme, font):
                super().draw(renderer)

        def savefig(self, fname: Any, **kwargs: Any) -> None:
            with theme_context(theme, font):
                super().savefig(fname, **kwargs)

    return ThemedFigure


def _add_axes(figure: Figure, inches: tuple[float, float], side: int, top: float) -> list[Axes]:
    """Return axes for side x side panels, row by row, on the figure made as large as they need."""
    em = setting("font.size") / 72
    width, height = (length / em for length in inches)
    total_width, total_height = side * width, side * height + (_HEAD if side > 1 else 0.0)
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
