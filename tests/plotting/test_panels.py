"""What panels show in cases of their own: steps, small changes, long runs, much memory, print."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import StepPatch
from support.common import slow
from support.histories import INF, NAN, changed, drawn, everywhere, healthy, healthy_row, notes, only_axes

from mlflow_ddpm.analysis.frame import frame_from_rows
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.plots import FigureSet, make_figure, write_figures
from mlflow_ddpm.plotting.series import changes, series


def steps(rows: list[EpochMetrics]) -> RunHistory:
    """Return a history whose rows count steps."""

    class StepHistory(RunHistory):
        axis_label = "Step"

    return StepHistory.create(rows)


def test_rows_a_thousand_steps_apart_are_neighbours_and_a_wider_distance_is_a_gap() -> None:
    """Gaps, bars and changes go by the usual distance of the rows; a short last window is no gap."""
    numbers_of_rows = [1000, 2000, 3000, 4000, 6000, 7000, 8000, 8300]
    history = steps([replace(healthy_row(i), epoch=epoch) for i, epoch in enumerate(numbers_of_rows)])
    figure = make_figure("grad_norm", history)
    ax = only_axes(figure)
    (x, y), *_ = drawn(ax, "line")
    (bars,) = [p for p in only_axes(make_figure("throughput", history)).patches if isinstance(p, StepPatch)]
    edges = np.asarray(bars.get_data()[1])
    change = changes(series(history, "loss_mean"))

    assert ax.get_xlabel() == "Step"
    assert "missing: step 5,000" in notes(figure)
    assert x[~np.isfinite(y)].tolist() == [5500.0]
    assert np.diff(edges)[0] == pytest.approx(800)
    assert (np.diff(edges) >= 0).all()
    assert np.isnan(change.value).tolist() == [True, False, False, False, True, False, False, False]


def test_no_bar_of_the_derivative_is_invisible_and_the_picture_says_so() -> None:
    """Changes too small to see are drawn at a least height, which a note gives."""
    figure = make_figure("loss_derivative", healthy(40))
    ax = only_axes(figure)
    height = ax.get_ylim()[1] - ax.get_ylim()[0]
    steps_of_bars = [np.asarray(p.get_data()[0]) for p in ax.patches if isinstance(p, StepPatch)]
    sizes = np.abs(np.concatenate(steps_of_bars))

    assert sizes[np.isfinite(sizes)].min() >= 0.01 * height
    assert "changes under" in notes(figure)


@pytest.mark.parametrize("name", ["throughput", "epoch_timing"])
def test_bars_that_would_be_a_solid_block_are_a_line_with_its_range(name: str) -> None:
    """Some hundred epochs are a line and a band from the lowest to the highest value."""
    few, many = (only_axes(make_figure(name, healthy(epochs))) for epochs in (50, 500))

    assert not drawn(few, "line")
    assert [p for p in few.patches if isinstance(p, StepPatch)]
    assert drawn(many, "line")
    assert not [p for p in many.patches if isinstance(p, StepPatch)]
    assert "range" in {c.get_gid() for c in many.collections}
    assert "band: their range" in notes(many.figure)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mib", "unit", "factor"), [(10_239.0, "MiB", 1.0), (10_240.0, "GiB", 1024.0), (76e3, "GiB", 1024.0)]
)
def test_memory_is_in_gib_from_10_gib_on(mib: float, unit: str, factor: float) -> None:
    """Axis, note and lines are in the same unit."""
    figure = make_figure(
        "gpu_memory", everywhere(healthy(5), gpu_peak_mb=mib, gpu_reserved_mb=mib, gpu_allocated_mb=1.0)
    )
    (_, peak), *_ = drawn(only_axes(figure), "line")

    assert only_axes(figure).get_ylabel() == f"GPU memory ({unit})"
    assert peak[0] == mib / factor
    assert f"{unit} at epoch 0" in notes(figure)


@pytest.mark.parametrize("name", ["loss_linear", "grad_norm", "loss_distribution"])
def test_a_stretch_of_broken_epochs_is_one_mark_on_a_line(name: str) -> None:
    """Not a row of marks; its note gives the range, in a colour that stands for nothing else."""
    frame = healthy(50)
    for epoch in range(20, 30):
        frame = changed(frame, epoch, loss_mean=NAN, grad_norm=NAN)
    figure = make_figure(name, frame)
    ax = only_axes(figure)

    assert drawn(ax, "edge")[0][0].tolist() == [24.5]
    assert [20.0, 29.0] in [x.tolist() for x, _ in drawn(ax, "stretch")]
    assert "NaN (epochs 20\u201329)" in notes(figure)
    marks = [line.get_color() for line in ax.lines if line.get_gid() == "edge"]
    assert marks[0] not in {line.get_color() for line in ax.lines if line.get_gid() in ("line", "best", "dots")}


@pytest.mark.parametrize("values", [(0.2, 0.3), (0.01, 0.5), (1e-6, 1.0), (3e-4, 9e-4), (0.99, 1.01)])
def test_a_log_axis_has_at_least_three_labels_and_minor_ticks(values: tuple[float, float]) -> None:
    """However few decades it spans."""
    low, high = values
    rows = [replace(healthy_row(i), loss_mean=high if i else low, loss_min=low, loss_max=high) for i in range(5)]
    ax = only_axes(make_figure("loss_log", frame_from_rows(rows)))
    bottom, top = ax.get_ylim()
    shown = [tick for tick in ax.get_yticks() if bottom <= tick <= top]

    assert len(shown) >= 3
    assert len({label.get_text() for label in ax.get_yticklabels()}) == len(ax.get_yticks())
    if high > 2 * low:
        assert [tick for tick in ax.get_yticks(minor=True) if bottom <= tick <= top]


def test_the_dashboard_names_its_run() -> None:
    """By its name, else by the first letters of its id; without either it begins with the epochs."""
    rows = [healthy_row(epoch) for epoch in range(3)]
    figures = [
        make_figure("training_dashboard", RunHistory.create(rows, run=run))
        for run in ({"run_name": "cost $5", "run_id": "a" * 32}, {"run_id": "b" * 32}, {})
    ]
    subtitles = [figure.texts[1].get_text() for figure in figures]

    assert [text.split("  ")[0] for text in subtitles] == [r"cost \$5", "bbbbbbbb", "3 epochs"]


@pytest.mark.parametrize("name", [slow("a-name" * 20), "\u6269\u6563" * 60, slow("a\nb"), slow("$x^2$" * 30)])
@pytest.mark.parametrize("theme", [slow("dark"), "paper"])
def test_the_dashboard_s_subtitle_has_room_for_any_name(name: str, theme: str) -> None:
    """A long name is shortened, and what follows it stays in the picture; matplotlib has nothing to warn of."""
    rows = [replace(healthy_row(epoch), loss_mean=NAN) if epoch % 9 else healthy_row(epoch) for epoch in range(5000)]
    figure = make_figure("training_dashboard", RunHistory.create(rows, run={"run_name": name}), theme=theme)
    figure.draw_without_rendering()

    assert figure.texts[1].get_window_extent().x1 < figure.bbox.x1
    assert "training time" in figure.texts[1].get_text()


def test_printed_figures_leave_facts_to_their_caption() -> None:
    """They explain their marks alone; what else a screen's figure says is in ``facts``."""
    figure = make_figure("loss_linear", changed(healthy(20), 7, loss_mean=NAN), theme="paper")
    (ax,) = figure.axes

    assert [t.get_text() for t in ax.texts if t.get_visible()] == ["NaN", "best", "mean", "batch min\u2013max"]
    facts = figure.facts  # type: ignore[attr-defined]
    assert "NaN (epoch 7)" in facts
    assert [fact for fact in facts if fact.startswith("best 0.0")]
    assert [] == [t.get_text() for t in only_axes(make_figure("grad_norm", healthy(20), theme="paper")).texts]


def test_a_dashboard_s_facts_name_the_panels_that_they_are_of() -> None:
    """What is one of many panels, such as where the run resumed, needs no names; their caption repeats no sentence."""
    rows = [replace(healthy_row(epoch), lr=0.1, grad_norm=INF if epoch == 7 else 1.0) for epoch in range(9)]
    history = RunHistory.create(rows, run={"resumed_at_epochs": [3]})
    write_figures(history, Path("paper"), FigureSet.create("paper", ("png",), ()))
    text = Path("paper/captions.txt").read_text(encoding="utf-8")
    captions = dict(line.split(": ", 1) for line in text.splitlines() if line)

    assert "inf (epoch 7) in Gradient Norm" in captions["training_dashboard"]
    assert "resumed at epoch 3" in captions["training_dashboard"].lower()
    assert "resumed at epoch 3 in" not in captions["training_dashboard"].lower()
    assert "The learning rate is 0.1 throughout. Resumed at epoch 3." in captions["learning_rate"]
