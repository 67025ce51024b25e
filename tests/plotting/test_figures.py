"""What the panels draw: the history's own numbers, open gaps, marks and words for what cannot be drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from support.common import slow
from support.histories import (
    INF,
    NAN,
    changed,
    drawn,
    everywhere,
    healthy,
    healthy_row,
    notes,
    only_axes,
    visible_texts,
    words,
)

from mlflow_ddpm.analysis.frame import RESUMED, frame_from_rows, numbers
from mlflow_ddpm.core.extra_metrics import axis_label
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.plots import make_figure
from mlflow_ddpm.plotting.axes import spike_limit
from mlflow_ddpm.plotting.lines import envelope
from mlflow_ddpm.plotting.plot_table import PLOTS

SINGLES = [plot.name for plot in PLOTS if len(plot.panels) == 1]


@pytest.mark.parametrize("name", SINGLES)
def test_axes_are_labelled_from_the_metrics_table_and_ticked_at_whole_epochs(name: str) -> None:
    """The epoch axis has whole epochs of the run alone; the value axis bears the table's label and unit."""
    metric = {
        "learning_rate": "lr", "grad_norm": "grad_norm", "throughput": "samples_per_sec",
        "ema_divergence": "ema_delta_norm", "epoch_timing": "epoch_time_sec",
    }.get(name, "loss_mean")  # fmt: skip
    label = {
        "gpu_memory": "GPU memory (MiB)",
        "loss_derivative": f"Change of {axis_label('loss_mean').lower()}",
    }.get(name, axis_label(metric))
    ax = only_axes(make_figure(name, healthy(50)))
    ticks = ax.get_xticks()

    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Epoch", label)
    assert all(float(tick).is_integer() and 0 <= tick <= 49 for tick in ticks)
    assert len(ticks) >= 4
    assert [t.get_text() for t in ax.get_xticklabels()] == [f"{tick:,.0f}" for tick in ticks]
    assert not any("\N{MULTIPLICATION SIGN}10" in t.get_text() for t in ax.get_yticklabels())


@pytest.mark.parametrize(
    ("name", "column"),
    [("loss_linear", "loss_mean"), ("loss_log", "loss_mean"), ("learning_rate", "lr"), ("grad_norm", "grad_norm"),
     ("ema_divergence", "ema_delta_norm")],
)  # fmt: skip
def test_a_line_is_the_history_and_open_where_an_epoch_is_missing_or_not_finite(name: str, column: str) -> None:
    """What is drawn are the history's own numbers; missing and non-finite epochs interrupt the line."""
    frame = changed(healthy(20), 5, **{column: NAN})
    frame = frame[frame["epoch"] != 12].reset_index(drop=True)
    (x, y), *_ = drawn(only_axes(make_figure(name, frame)), "line")
    there = np.isfinite(y)
    expected = numbers(frame, column)

    assert x[there].tolist() == frame["epoch"][np.isfinite(expected)].tolist()
    assert y[there].tolist() == expected[np.isfinite(expected)].tolist()
    assert not there[x == 5].any()
    assert not there[(x > 11) & (x < 13)].any()
    assert ((x > 11) & (x < 13)).any()


@pytest.mark.parametrize("name", ["loss_linear", "loss_log"])
def test_the_best_epoch_bears_a_star_its_value_and_its_number(name: str) -> None:
    """The lowest finite mean is marked and written out; NaN and negative infinity are not best."""
    frame = changed(changed(changed(healthy(30), 17, loss_mean=0.0123456), 20, loss_mean=NAN), 21, loss_mean=-INF)
    figure = make_figure(name, frame)
    ((x, y),) = drawn(only_axes(figure), "best")

    assert (x.tolist(), y.tolist()) == ([17], [0.0123456])
    assert "best 0.01235 at epoch 17" in words(figure)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("loss_linear", lambda r: r.loss_min, lambda r: r.loss_max),
        ("loss_log", lambda r: r.loss_min, lambda r: r.loss_max),
        ("loss_distribution", lambda r: r.loss_mean - r.loss_std, lambda r: r.loss_mean + r.loss_std),
    ],
)
def test_the_band_reaches_from_lowest_to_highest(name: str, low: object, high: object) -> None:
    """The band spans the batches' minimum and maximum, or one standard deviation to either side of the mean."""
    ax = only_axes(make_figure(name, healthy(10)))
    (band,) = [c for c in ax.collections if c.get_gid() == "band" and not hasattr(c, "get_segments")]
    vertices = np.asarray(band.get_paths()[0].vertices)
    rows = [healthy_row(epoch) for epoch in range(10)]

    for edge, pick in ((low, np.min), (high, np.max)):
        assert callable(edge)
        heights = [pick(vertices[vertices[:, 0] == row.epoch, 1]) for row in rows]
        assert heights == pytest.approx([edge(row) for row in rows])


def test_one_epoch_is_a_visible_point_with_its_band_as_a_stroke() -> None:
    """A run of one epoch shows a dot, a star and the batches' spread, not empty axes."""
    ax = only_axes(make_figure("loss_linear", healthy(1)))
    strokes = [c.get_segments() for c in ax.collections if hasattr(c, "get_segments")]

    assert [x.tolist() for x, _ in drawn(ax, "dots")] == [[0.0]]
    assert len(strokes[0]) == 1
    assert ax.get_xticks().tolist() == [0]


def test_an_epoch_between_two_gaps_is_a_dot() -> None:
    """A value that no line reaches is drawn by itself, however long the run."""
    frame = changed(changed(healthy(50), 20, grad_norm=NAN), 22, grad_norm=NAN)
    ((x, _),) = drawn(only_axes(make_figure("grad_norm", frame)), "dots")

    assert x.tolist() == [21]


def test_what_is_not_finite_is_marked_at_the_edge_and_named() -> None:
    """NaN and infinity leave a gap, a cross at their epoch, and a note that names which."""
    frame = changed(healthy(50), 12, loss_mean=NAN)
    both = changed(frame, 30, loss_mean=INF)

    assert "NaN (epoch 12)" in notes(make_figure("loss_log", frame))
    assert "NaN or inf (epochs 12, 30)" in notes(make_figure("loss_log", both))
    assert drawn(only_axes(make_figure("loss_log", both)), "edge")[0][0].tolist() == [12, 30]


@pytest.mark.parametrize("name", [plot.name for plot in PLOTS if len(plot.panels) == 1])
def test_resumes_are_marked_between_the_epochs_and_said(name: str) -> None:
    """A step in a curve is no surprise where the run was cut off and went on, soon after the row before or not."""
    history = healthy(50).copy()
    history["epoch"] = history["epoch"].replace(21, 20.2)
    history["epoch"] = (history["epoch"] * 10).astype(int)
    history.attrs[RESUMED] = (202, 350)
    figure = make_figure(name, history)
    lines = [line for line in only_axes(figure).lines if line.get_gid() == "resumed"]

    assert [201.0, 345.0] == [float(np.asarray(line.get_xdata())[0]) for line in lines]
    assert "resumed" in notes(figure)


def test_unmeasured_and_missing_epochs_are_not_taken_for_broken_ones() -> None:
    """Epochs without a row are named as missing, epochs without a value are counted, and neither gets a cross."""
    missing = healthy(50)[healthy(50)["epoch"] != 7].reset_index(drop=True)
    unmeasured = changed(healthy(50), 7, ema_delta_norm=None)

    assert "missing: epoch 7" in notes(make_figure("ema_divergence", missing))
    assert "not measured in 1 of 50 epochs" in notes(make_figure("ema_divergence", unmeasured))
    assert drawn(only_axes(make_figure("ema_divergence", unmeasured)), "edge") == []


@pytest.mark.parametrize("epochs", [1, slow(3)])
@pytest.mark.parametrize(
    ("name", "columns", "reason"),
    [
        ("gpu_memory", ("gpu_allocated_mb", "gpu_reserved_mb", "gpu_peak_mb"), "not measured:\nno CUDA device"),
        ("ema_divergence", ("ema_delta_norm",), "not measured:\nneither watch nor end_epoch\ngot an ema_model"),
        ("learning_rate", ("lr",), "not measured:\nlog_batch got no lr"),
        ("grad_norm", ("grad_norm",), "not measured:\nlog_batch got no grad_norm"),
        ("loss_linear", ("loss_mean",), "not measured:\nlog_batch was never called"),
        ("throughput", ("samples_per_sec", "batches_per_sec"), "not measured:\nno batch was counted"),
    ],
)
def test_a_metric_never_measured_says_why(name: str, columns: tuple[str, ...], reason: str, epochs: int) -> None:
    """A panel without a single value says so in words, alone and in the dashboard, and draws nothing."""
    frame = everywhere(healthy(epochs), **dict.fromkeys(columns))
    ax = only_axes(make_figure(name, frame))

    assert reason in words(make_figure("training_dashboard", frame))
    assert [t.get_text() for t in ax.texts] == [reason]
    assert not ax.lines
    assert not ax.patches


def test_a_metric_that_was_never_finite_says_so() -> None:
    """Measured and broken throughout is not the same as never measured."""
    frame = everywhere(healthy(3), grad_norm=NAN)

    assert "measured, but never finite:\nNaN in epochs 0, 1, 2" in words(make_figure("grad_norm", frame))


def test_throughput_falls_back_on_batches_and_says_so() -> None:
    """Where batch sizes are unknown, bars count batches, in their own unit."""
    figure = make_figure("throughput", everywhere(healthy(4), samples_per_sec=None))

    assert only_axes(figure).get_ylabel() == axis_label("batches_per_sec")
    assert "batch sizes unknown: no samples/s" in notes(figure)


def test_gpu_memory_lines_differ_in_dashes_and_bear_their_names() -> None:
    """Peak, reserved and allocated differ without colour."""
    figure = make_figure("gpu_memory", healthy(50))
    lines = [line for line in only_axes(figure).lines if line.get_gid() == "line"]

    assert len({line.get_linestyle() for line in lines}) == 3
    assert {"peak", "reserved", "allocated"} <= set(words(figure))
    assert "peak 5,634 MiB at epoch 0, reserved up to 6,480" in notes(figure)


def test_names_of_lines_that_meet_are_pushed_apart() -> None:
    """Equal memory everywhere still gives three names that can be read."""
    frame = everywhere(healthy(5), gpu_allocated_mb=100.0, gpu_reserved_mb=100.0, gpu_peak_mb=100.0)
    figure = make_figure("training_dashboard", frame, theme="paper")
    boxes = [Text.get_window_extent(t) for t in visible_texts(figure) if t.get_gid() == "end"]

    assert len(boxes) == 3
    assert not any(a.padded(-1).overlaps(b.padded(-1)) for a, b in itertools.combinations(boxes, 2))


def test_the_derivative_is_below_zero_where_the_loss_improves() -> None:
    """Each bar is the change from the epoch before; none follows a gap; counts stand beside their colours."""
    frame = frame_from_rows(
        EpochMetrics(epoch=epoch, loss_mean=loss) for epoch, loss in ((0, 5.0), (1, 3.0), (2, 4.0), (4, 1.0), (5, 1.0))
    )
    figure = make_figure("loss_derivative", frame)
    patches = [patch for patch in only_axes(figure).patches if isinstance(patch, StepPatch)]
    heights = [np.asarray(patch.get_data()[0]) for patch in patches]

    assert [h[np.isfinite(h)].tolist() for h in heights] == [[-2.0], [1.0]]
    assert all(part in notes(figure) for part in ("1 improving", "1 worsening", "1 unchanged"))


def test_zero_and_below_on_a_log_axis_are_marked_and_said() -> None:
    """A loss that a log axis cannot show is neither fatal nor dropped without a word."""
    frame = changed(changed(healthy(20), 3, loss_mean=0.0, loss_min=-1.0), 4, loss_mean=-0.5)
    figure = make_figure("loss_log", frame)
    nothing = make_figure("loss_log", everywhere(healthy(3), loss_mean=-1.0))

    assert "loss not above zero: epochs 3, 4" in notes(figure)
    assert only_axes(figure).get_yscale() == "log"
    assert "no loss above zero:\na log axis cannot show it" in words(nothing)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-12, 123456.789, 1e30])
@pytest.mark.parametrize("name", ["learning_rate", "grad_norm", "throughput"])
def test_a_constant_is_drawn_in_the_middle_of_sane_limits(name: str, value: float) -> None:
    """A series that does not vary gets room on both sides (bars: from zero), and no tick that needs an offset."""
    column = {"learning_rate": "lr", "grad_norm": "grad_norm", "throughput": "samples_per_sec"}[name]
    ax = only_axes(make_figure(name, everywhere(healthy(12), **{column: value})))
    low, high = ax.get_ylim()

    assert low <= value <= high
    assert 0 < high - low <= 3 * max(abs(value), 1 / 3 if value else 1)
    assert len(ax.get_yticks()) >= 2
    assert max(len(label.get_text()) for label in ax.get_yticklabels()) <= 8


def test_float_noise_on_a_constant_is_not_blown_up() -> None:
    """Rounding errors do not look like a signal."""
    frame = frame_from_rows(EpochMetrics(epoch=epoch, lr=1e-4 * (1 + 1e-15 * epoch)) for epoch in range(20))
    low, high = only_axes(make_figure("learning_rate", frame)).get_ylim()

    assert high - low > 1e-6


def test_a_spike_that_dwarfs_the_rest_runs_off_scale_and_is_written_out() -> None:
    """The rest stays legible, a mark stands at the spike's epoch, and its size is said."""
    figure = make_figure("grad_norm", changed(healthy(50), 30, grad_norm=1234.5))
    ax = only_axes(figure)

    assert ax.get_ylim()[1] < 3
    assert "off scale: up to 1,234 (epoch 30)" in notes(figure)
    assert drawn(ax, "edge")[0][0].tolist() == [30]


def test_only_few_values_may_run_off_scale() -> None:
    """Nothing is clipped in short runs, in even series, or where what is high is no exception."""
    few = np.array([1.0, 1.0, 1.0, 100.0])
    even = np.linspace(0, 1, 100)
    often = np.array([1.0] * 90 + [100.0] * 10)
    once = np.array([1.0] * 99 + [100.0])

    assert [spike_limit(v, 0.02) for v in (few, even, often, once)] == [100.0, 1.0, 100.0, 1.0]


@pytest.mark.parametrize("name", [SINGLES[0], *map(slow, SINGLES[1:])])
def test_ten_thousand_epochs_become_few_points_and_no_spike_vanishes(name: str) -> None:
    """More epochs than pixels are drawn as their envelope: as few vertices as columns, extremes kept."""
    frame = healthy(10_000)
    ax = only_axes(make_figure(name, frame))
    lines = [np.size(line.get_xdata()) for line in ax.lines]
    paths = [np.size(path.vertices) // 2 for c in ax.collections for path in c.get_paths()]
    steps = [np.size(patch.get_path().vertices) // 2 for patch in ax.patches]

    assert max([*lines, *paths, *steps, 0]) < 4 * ax.bbox.width
    assert len(ax.lines) + len(ax.collections) + len(ax.patches) < 20


def test_the_envelope_keeps_every_extreme_and_every_wide_gap() -> None:
    """A column holds the lowest and highest of its epochs; columns without an epoch are left out."""
    epoch = np.concatenate([np.arange(4000.0), np.arange(6000.0, 10_000.0)])
    value = np.sin(epoch / 50)
    value[[17, 7777]] = 50.0, -50.0
    value[100:300] = NAN
    thin = envelope(epoch, value, value, 200)

    assert len(thin.x) == 160
    assert (np.nanmax(thin.high), np.nanmin(thin.low)) == (50.0, -50.0)
    assert not ((thin.x > 4000) & (thin.x < 6000)).any()
    assert np.isnan(thin.low[(thin.x > 125) & (thin.x < 275)]).all()
