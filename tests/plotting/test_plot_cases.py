"""Every picture of every kind of history, in every look: whole, legible, and true to its numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from support.histories import constant, healthy, notes, resumed, scaled, sick, visible_texts

from mlflow_ddpm.analysis.frame import numbers
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.plots import make_figure
from mlflow_ddpm.plotting.notes import contrast
from mlflow_ddpm.plotting.plot_table import MARK, PLOTS, plot_columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {"dark": ("dark", None), "single": ("paper", "single"), "double": ("paper", "double")}
CASES: dict[str, Callable[[], pd.DataFrame]] = {
    "0": lambda: healthy(0),
    "1": lambda: healthy(1),
    "2": lambda: healthy(2),
    "50": lambda: healthy(50),
    "10000": lambda: healthy(10_000),
    "constant 50": lambda: constant(50),
    "sick 8": lambda: sick(8),
    "sick 50": lambda: sick(50),
    "sick 10000": lambda: sick(10_000),
    "tiny 20": lambda: scaled(healthy(20), 1e-12),
    "resumed 50": lambda: resumed(50),
    "resumed 1000": lambda: resumed(1000),
}
ROOMY = {"2", "resumed 50", "sick 10000"}
QUICK = {("dark", "1"), ("dark", "sick 50"), ("single", "resumed 50"), ("single", "tiny 20")}


@cache
def _history(case: str) -> RunHistory:
    return RunHistory.from_frame(CASES[case]())  # ten thousand rows take longer than their picture


def _cases() -> list[object]:
    """Return the looks of the cases, of the roomy one a few; a person who waits gets some of them."""
    return [
        pytest.param(look, case, marks=() if (look, case) in QUICK else pytest.mark.slow)
        for look, case in itertools.product(LOOKS, CASES)
        if look != "double" or case in ROOMY
    ]


@pytest.mark.parametrize(("look", "case"), _cases())
@pytest.mark.parametrize("name", [plot.name for plot in PLOTS])
def test_a_picture_is_legible_and_true(name: str, look: str, case: str) -> None:
    """No word is clipped or covers another; axes bear labels; every number is in sight or said to be out of it."""
    history = _history(case)
    theme, width = LOOKS[look]
    figure = make_figure(name, history, theme=theme, width=width)
    figure.draw_without_rendering()

    assert [] == _unreadable_words(figure, smallest=7.0 if theme == "paper" else 9.0)
    for ax in figure.axes:
        assert bool(ax.get_title(loc="left")) == (theme == "dark" or len(figure.axes) > 1)
        if not any(text.get_gid() == "empty" for text in ax.texts):
            assert (ax.get_xlabel(), ax.get_ylabel() != "") == ("Epoch", True)
    if len(figure.axes) == 1 and history.rows:
        _check_numbers(figure, name, history)
        marks = [line for line in figure.axes[0].lines if line.get_gid() == "resumed"]
        assert len(marks) == len(history.resumed_at_epochs)


def _unreadable_words(figure: Figure, smallest: float) -> list[str]:
    """Return texts that leave the figure, are too small or too pale, or overlap another."""
    texts = visible_texts(figure)
    back = np.array(to_rgb(figure.get_facecolor()))
    pale = [text.get_text() for text in texts if contrast(np.array(to_rgb(text.get_color())), back) < 4.5]
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts]
    clipped = [t for t, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > figure.bbox.x1 or b.y1 > figure.bbox.y1]
    small = [text.get_text() for text in texts if float(text.get_fontsize()) < smallest]
    pairs = itertools.combinations(boxes, 2)
    return clipped + small + pale + [f"{t} on {u}" for (t, a), (u, b) in pairs if a.padded(-1).overlaps(b.padded(-1))]


def _check_numbers(figure: Figure, name: str, history: RunHistory) -> None:
    """Check that extremes are drawn, and that what the axes leave out or cannot show is marked and said."""
    (ax,) = figure.axes
    columns = [values for column, values in plot_columns(name, history).items() if column not in ("epoch", MARK)]
    values = np.array([[np.nan if cell is None else cell for cell in column] for column in columns], dtype=float)
    finite = values[np.isfinite(values)]
    low, high = ax.get_ylim()
    if any(text.get_gid() == "empty" for text in ax.texts):
        return
    said, heights = notes(figure), _heights(ax)

    least = 0.013 * (high - low) if name == "loss_derivative" else 0.0  # lower bars could not be seen and are raised
    assert np.isclose(heights, finite.max(), rtol=1e-9, atol=least).any()
    assert np.isclose(heights, finite.min(), rtol=1e-9, atol=least).any()
    assert ((finite >= low) & (finite <= high)).mean() > 0.8
    assert [finite.max() > high, finite.min() < low] == [
        "up to" in said.replace("reserved up to", ""),
        "down to" in said,
    ]
    assert _has_broken(name, history) == ("NaN" in said or "inf" in said) == ("x" in _marks(ax))


def _has_broken(name: str, history: RunHistory) -> bool:
    """Tell whether the main metric of a plot was measured and is not finite at some epoch."""
    main = (
        "loss_mean"
        if name == "loss_derivative"
        else list(plot_columns(name, history))[3 if name == "gpu_memory" else 1]
    )
    return not np.isfinite(numbers(history.frame, main)[history.frame[main].notna()]).all()


def _marks(ax: Axes) -> set[object]:
    return {line.get_marker() for line in ax.lines if line.get_gid() == "edge"}


def _heights(ax: Axes) -> np.ndarray:
    """Return every value at which a line, a band or a bar has a corner."""
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in ax.lines if line.get_gid() != "edge"]
    bands = [np.asarray(path.vertices)[:, 1] for c in ax.collections for path in c.get_paths()]
    steps = [np.asarray(patch.get_data()[0]) for patch in ax.patches if isinstance(patch, StepPatch)]
    return np.concatenate([*lines, *bands, *steps])
