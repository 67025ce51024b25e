"""Several runs in one picture: their own numbers, one look a run, marks and words that fit."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.colors import to_hex
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
    scaled,
    sick,
    visible_texts,
    words,
)

from mlflow_ddpm import plots
from mlflow_ddpm.analysis.frame import RESUMED, frame_from_rows, numbers
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.plots import make_figure
from mlflow_ddpm.plotting import themes
from mlflow_ddpm.plotting.plot_table import PLOTS, plot_named
from mlflow_ddpm.plotting.run_styles import MOST_RUNS
from mlflow_ddpm.plotting.text import drawable_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = [plot.name for plot in PLOTS]
THEMES = ("dark", "paper")
Runs = list[tuple[str, pd.DataFrame]]

SETS: dict[str, Runs] = {
    "two alike": [("baseline", healthy(50)), ("the same once more, with a long name", healthy(50))],
    "three, one sick": [("short", healthy(2)), ("sick", sick(60)), ("longest", healthy(80))],
    "as many as can be": [
        (f"sweep-over-learning-rates-{k}-of-the-model", scaled(healthy(30 + k), 1 + 0.3 * k)) for k in range(MOST_RUNS)
    ],
    "one epoch, and none": [("one", healthy(1)), ("none", healthy(0))],
}


def make_comparison(name: str, runs: Runs, theme: str = "dark") -> Figure:
    """Return a comparison of frames."""
    histories = [(run, RunHistory.from_frame(frame)) for run, frame in runs]
    return plots.make_comparison(name, histories, theme=theme)


def _colors(ax: Axes, kind: str) -> list[str]:
    return [to_hex(line.get_color()) for line in ax.lines if line.get_gid() == kind]


EVERY = [(name, runs, theme) for name in NAMES for runs in SETS for theme in THEMES]
HARDEST = [  # the longest names, the most marks, equal ends
    ("loss_linear", "as many as can be", "paper"),
    ("loss_linear", "three, one sick", "dark"),
    ("loss_distribution", "two alike", "paper"),
    ("learning_rate", "two alike", "dark"),
    ("training_dashboard", "as many as can be", "paper"),
    ("training_dashboard", "three, one sick", "dark"),
]


@pytest.mark.parametrize(("name", "runs", "theme"), [*HARDEST[:2], *(slow(*case) for case in HARDEST[2:])])
def test_every_word_lies_within_the_figure_and_covers_no_other(name: str, runs: str, theme: str) -> None:
    """Two runs or the most there can be, long names, equal ends: all can be read."""
    _check_words(name, SETS[runs], theme)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "runs", "theme"), [one for one in EVERY if one not in HARDEST])
def test_the_same_holds_of_all_other_pictures(name: str, runs: str, theme: str) -> None:
    """All eleven in both themes."""
    _check_words(name, SETS[runs], theme)


def _check_words(name: str, runs: Runs, theme: str) -> None:
    figure = make_comparison(name, runs, theme=theme)
    figure.draw_without_rendering()
    boxes = [(text.get_text(), Text.get_window_extent(text)) for text in visible_texts(figure)]

    assert [] == [t for t, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > figure.bbox.x1 or b.y1 > figure.bbox.y1]
    assert [] == [(t, u) for (t, a), (u, b) in itertools.combinations(boxes, 2) if a.padded(-1).overlaps(b.padded(-1))]


@pytest.mark.parametrize("name", [NAMES[0], *map(slow, NAMES[1:-1]), NAMES[-1]])
def test_titles_and_axes_are_those_of_the_pictures_of_one_run(name: str) -> None:
    """Who knows the one can read the other."""
    runs = [("a", healthy(40)), ("b", scaled(healthy(40), 1.2))]
    one, several = make_figure(name, healthy(40)), make_comparison(name, runs)

    assert [ax.get_title(loc="left") for ax in one.axes] == [ax.get_title(loc="left") for ax in several.axes]
    assert [ax.get_xlabel() for ax in one.axes] == [ax.get_xlabel() for ax in several.axes]
    assert [ax.get_yscale() for ax in one.axes] == [ax.get_yscale() for ax in several.axes]
    assert [ax.get_ylabel().replace("memory", "peak") for ax in one.axes] == [ax.get_ylabel() for ax in several.axes]


@pytest.mark.parametrize("name", NAMES[:-1])
def test_each_line_is_its_run_s_own_history_in_its_run_s_own_colour(name: str) -> None:
    """Runs of unlike lengths share one axis of epochs, and a run looks the same in every picture."""
    runs = [("a", healthy(50)), ("b", scaled(healthy(20), 2.0)), ("c", scaled(healthy(35), 3.0))]
    quantity = plot_named(name).quantity
    ax = only_axes(make_comparison(name, runs))
    lines = drawn(ax, "line")

    assert ["#56b4e9", "#e69f00", "#009e73"] == _colors(ax, "line")
    for (_, frame), (x, y) in zip(runs, lines, strict=True):
        expected = numbers(frame, quantity.metric)
        expected = expected / 1024 if name == "gpu_memory" else expected  # in GiB
        expected = np.diff(expected) if quantity.is_change else expected
        assert y[np.isfinite(y)] == pytest.approx(expected)
        assert x[np.isfinite(y)].tolist() == frame["epoch"].tolist()[len(frame) - len(expected) :]
    assert {"a", "b", "c"} <= set(words(ax.figure))  # type: ignore[arg-type]


def test_the_dashboard_has_one_legend_for_nine_panels() -> None:
    """No panel of it names a run beside a line."""
    texts = visible_texts(make_comparison("training_dashboard", SETS["three, one sick"]))

    assert ["short", "sick", "longest"] == [t.get_text() for t in texts if t.get_gid() == "legend"]
    assert not [t for t in texts if t.get_gid() == "end"]


@pytest.mark.parametrize("name", ["loss_linear", "loss_log"])
def test_the_best_epoch_of_each_run_bears_a_star_and_the_best_of_all_is_said(name: str) -> None:
    """With the run's name, its value and its epoch; NaN is not best."""
    a, b = changed(healthy(30), 17, loss_mean=0.0123456), changed(healthy(20), 11, loss_mean=0.02)
    figure = make_comparison(name, [("a", changed(a, 20, loss_mean=NAN)), ("b", b)])
    stars = drawn(only_axes(figure), "best")

    assert [(17, 0.0123456), (11, 0.02)] == [(x.item(), y.item()) for x, y in stars]
    assert "best of all: a, 0.01235 at epoch 17" in notes(figure)


def test_more_runs_than_colours_come_dashed() -> None:
    """The eighth run has the first one's colour and another line; the legend shows it."""
    runs = [(f"run {k}", scaled(healthy(20), 1 + 0.1 * k)) for k in range(9)]
    figure = make_comparison("grad_norm", runs)
    lines = [line for line in only_axes(figure).lines if line.get_gid() == "line"]

    assert _colors(only_axes(figure), "line")[7:] == _colors(only_axes(figure), "line")[:2]
    assert ["-"] * 7 + ["--"] * 2 == [line.get_linestyle() for line in lines]
    for legend in (figure.legends, make_comparison("training_dashboard", runs).legends):
        assert ["-"] * 7 + ["--"] * 2 == [line.get_linestyle() for line in legend[0].get_lines()]
        assert [name for name, _ in runs] == [text.get_text() for text in legend[0].get_texts()]


def test_a_spike_runs_off_scale_but_never_a_whole_run() -> None:
    """What is usual is asked of each run by itself: a short run far above the others stays in the picture."""
    spiky = changed(healthy(100), 30, grad_norm=5000.0)
    high = scaled(healthy(4), 50.0)
    figure = make_comparison("grad_norm", [("spiky", spiky), ("high", high)])
    low, top = only_axes(figure).get_ylim()

    assert numbers(high, "grad_norm").max() < top < 200
    assert low == 0
    assert "off scale: up to 5,000 (spiky)" in notes(figure)
    assert [30.0] == drawn(only_axes(figure), "edge")[0][0].tolist()


@pytest.mark.parametrize("name", ["loss_linear", "grad_norm", slow("loss_derivative")])
@pytest.mark.parametrize("count", [2, slow(3), slow(14)])
def test_a_run_that_diverges_leaves_the_picture_to_the_others(name: str, count: int) -> None:
    """It is cut off where they end, and a note names it; runs that begin somewhat higher are whole."""
    away = healthy(20)
    for epoch in range(14, 20):
        away = changed(away, epoch, loss_mean=9.0 * 10 ** (epoch - 13), grad_norm=9.0 * 10 ** (epoch - 13))
    others = [(f"run {k}", scaled(healthy(20), 1 + 0.05 * k)) for k in range(count - 1)]
    figure = make_comparison(name, [*others, ("away", away)])
    low, top = only_axes(figure).get_ylim()

    assert max(-low, top) < 5
    assert "(away)" in notes(figure)
    assert "off scale" not in notes(make_comparison(name, [*others, ("like them", healthy(25))]))
    strokes = [np.asarray(line.get_ydata()) for line in only_axes(figure).lines if line.get_gid() == "leader"]
    assert all(((ends >= 0) & (ends <= 1)).all() for ends in strokes)


def test_runs_in_steps_that_end_inside_a_window_have_no_gap_and_no_short_window() -> None:
    """The end of one interrupts no line of another; the time of part of a window is no window's."""
    runs = []
    for count, rest in ((30, 340), (45, 1), (20, 0)):
        rows = [replace(healthy_row(k), epoch=1000 * (k + 1), epoch_time_sec=50.0) for k in range(count)]
        rows += [replace(rows[-1], epoch=1000 * count + rest, epoch_time_sec=0.1, partial=1)] if rest else []
        runs.append((f"{count}", RunHistory.create(rows, run={"every_n_steps": 1000})))
    for name in ("grad_norm", "epoch_timing"):
        lines = drawn(only_axes(plots.make_comparison(name, runs)), "line")
        counts = [np.isfinite(value).sum() for _, value in lines]
        assert counts == ([31, 46, 20] if name == "grad_norm" else [30, 45, 20])
        assert all(np.isfinite(value[:count]).all() for (_, value), count in zip(lines, counts, strict=True))
    assert "0.1" not in plot_named("epoch_timing").describe(runs[0][1])


def test_a_legend_has_rows_of_about_one_length() -> None:
    """The last run of six does not stand in a row of its own."""
    runs = [(f"a run of some length {k}", healthy(9)) for k in range(6)]
    legend = make_comparison("learning_rate", runs).legends[0]
    heights = [round(text.get_window_extent().y0) for text in legend.get_texts()]

    assert len({heights.count(height) for height in heights}) == 1


def test_what_a_line_cannot_show_is_said_with_the_run_s_name() -> None:
    """NaN, infinities, what was not measured, and resumes."""
    broken = changed(changed(healthy(40), 12, grad_norm=NAN), 13, grad_norm=INF)
    resumed = healthy(40).copy()
    resumed.attrs[RESUMED] = (20,)
    without = everywhere(healthy(40), grad_norm=None)
    text = notes(make_comparison("grad_norm", [("x", broken), ("y", without)]))

    assert "NaN or inf (x, epochs 12, 13)" in text
    assert "not measured: y" in text
    assert "resumed: z" in notes(make_comparison("grad_norm", [("x", healthy(40)), ("z", resumed)]))


def test_zero_and_below_on_a_log_axis_are_marked_and_said() -> None:
    """As in the picture of one run."""
    figure = make_comparison("loss_log", [("x", changed(healthy(20), 3, loss_mean=-1.0)), ("y", healthy(20))])

    assert "loss not above zero: x" in notes(figure)


def test_where_no_run_has_anything_to_show_the_picture_says_why() -> None:
    """In the words of the picture of one run."""
    bare = frame_from_rows([EpochMetrics(epoch=0, loss_mean=-1.0)])
    runs = [("a", bare), ("b", healthy(0))]

    assert "not measured:\nno CUDA device" in words(make_comparison("gpu_memory", runs))
    assert "no loss above zero:\na log axis cannot show it" in words(make_comparison("loss_log", runs))
    assert "no change to show yet:\nit takes two epochs in a row" in words(make_comparison("loss_derivative", runs))
    assert "no epochs yet" in words(make_comparison("learning_rate", [("a", healthy(0)), ("b", healthy(0))]))


def test_throughput_counts_batches_where_no_run_knows_its_batch_sizes() -> None:
    """One unit serves all runs of a picture; a run without it is named."""
    batches = everywhere(healthy(9), samples_per_sec=None)
    mixed = make_comparison("throughput", [("a", healthy(9)), ("b", batches)])

    assert (
        only_axes(make_comparison("throughput", [("a", batches), ("b", batches)])).get_ylabel().endswith("(batches/s)")
    )
    assert only_axes(mixed).get_ylabel().endswith("(samples/s)")
    assert "not measured: b" in notes(mixed)


def test_the_spread_is_drawn_of_few_runs_alone() -> None:
    """Up to three runs have bands, which a note explains."""
    three = [(f"run {k}", scaled(healthy(20), 1 + k)) for k in range(3)]
    four = [*three, ("run 3", healthy(20))]
    bands = [
        {c.get_gid() for c in only_axes(make_comparison("loss_distribution", runs)).collections}
        for runs in (three, four)
    ]

    assert bands == [{"band"}, set()]
    assert "\u00b1 1\u03c3" in notes(make_comparison("loss_distribution", three))
    assert "\u03c3" not in notes(make_comparison("loss_distribution", four))


def test_ten_thousand_epochs_become_few_points_and_no_spike_vanishes() -> None:
    """Lines of more points than pixels are envelopes, here too."""
    spiky = changed(healthy(10_000), 7777, loss_mean=9.5)
    ax = only_axes(make_comparison("loss_log", [("a", spiky), ("b", healthy(3000))]))

    assert max(np.size(line.get_xdata()) for line in ax.lines) < 4 * ax.bbox.width
    bands = [path for c in ax.collections if c.get_gid() == "range" for path in c.get_paths()]
    assert max(np.nanmax(np.asarray(band.vertices)[:, 1]) for band in bands) == 9.5


def test_epochs_may_be_far_apart() -> None:
    """Runs of few rows cost no more than their rows."""
    far = frame_from_rows([EpochMetrics(epoch=0, lr=1.0), EpochMetrics(epoch=10**9, lr=2.0)])
    make_comparison("learning_rate", [("far", far), ("near", healthy(9))]).draw_without_rendering()


@pytest.mark.parametrize(
    "name", ["$x^2$", "名前", *map(slow, ["a $ b", r"\frac{$", "a\nb", "<b>", "_" * 300, "{", "%s"])]
)
def test_any_name_can_be_drawn(name: str) -> None:
    """Nothing in a name is taken for a formula, and letters that the font lacks do not make matplotlib warn."""
    figure = make_comparison("learning_rate", [(name, healthy(3)), (f"{name}!", healthy(4))])
    figure.draw_without_rendering()
    ends = [text.get_text() for text in visible_texts(figure) if text.get_gid() == "end"]

    assert len(set(ends)) == 2


@pytest.mark.parametrize(
    ("name", "drawn_as"),
    [("Диффузия \N{HIRAGANA LETTER NO}", "Диффузия \N{HIRAGANA LETTER NO}"), ("名前-🚀-1", "…-…-1"), ("名前", "run 1")],
)
def test_letters_come_from_any_font_that_has_them(
    name: str, drawn_as: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Letters that no font has are left out; where none is left, the run has a number. One line of the log says so."""
    monkeypatch.setattr(themes, "_OTHER_SCRIPTS", ("STIXGeneral",))
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    drawable_name.cache_clear()
    make_comparison("loss_log", [(name, healthy(2))])
    figure = make_comparison("learning_rate", [(name, healthy(3))], theme="paper")
    figure.savefig("named.pdf")
    drawable_name.cache_clear()

    assert drawn_as in {text.get_text() for text in visible_texts(figure)}
    assert [f"figures write {drawn_as!r} for {name!r}"] * (name != drawn_as) == [
        message.partition(":")[0] for message in caplog.messages
    ]


def test_short_names_stay_unlike() -> None:
    """What all begin with is left out; names that differ in the middle alone are numbered."""
    runs = [(f"anexperimentwith{k}-and-a-very-long-name-indeed", healthy(3)) for k in "xyz"]
    texts = visible_texts(make_comparison("learning_rate", runs))
    ends = sorted(text.get_text() for text in texts if text.get_gid() == "end")

    assert ["1 ane", "2 ane", "3 ane"] == [text[:5] for text in ends]


def test_the_user_settings_of_matplotlib_survive() -> None:
    """Nothing of the comparison's look is left behind."""
    before = dict(mpl.rcParams)
    make_comparison("training_dashboard", SETS["two alike"], theme="paper")

    assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_from_six_runs_on_every_picture_has_the_dashboard_s_legend_in_one_order() -> None:
    """Up to five have their names at the ends of their lines; the axes stay as large."""
    runs = [(f"run {k}", scaled(healthy(20), 1 + 0.1 * k)) for k in range(6)]
    sizes = []
    for count in (5, 6):
        figure = make_comparison("learning_rate", runs[:count])
        sizes.append(np.array(only_axes(figure).bbox.size).tolist())
        assert len([t for t in visible_texts(figure) if t.get_gid() == "end"]) == (5 if count == 5 else 0)
    orders = [[t.get_text() for t in make_comparison(name, runs).legends[0].get_texts()] for name in NAMES]

    assert orders == [[name for name, _ in runs]] * len(NAMES)
    assert sizes[0] == pytest.approx(sizes[1])


def test_a_label_shows_its_line_and_is_joined_to_its_end() -> None:
    """Each name has a sample in its line's colour and dash, and a thin stroke from where the line ends."""
    ax = only_axes(make_comparison("grad_norm", [("short", healthy(9)), ("long", scaled(healthy(20), 1.01))]))
    leaders = [line for line in ax.lines if line.get_gid() == "leader"]
    samples = {to_hex(line.get_color()) for line in leaders if line.get_alpha() == 1.0}
    starts = [
        ax.transData.inverted().transform(ax.transAxes.transform(np.asarray(line.get_xydata())[0]))[0]
        for line in leaders
        if line.get_alpha() != 1.0
    ]

    assert samples == set(_colors(ax, "line"))
    assert sorted(starts) == pytest.approx([8.0, 19.0])


@pytest.mark.parametrize("name", ["loss_linear", "loss_log", "gpu_memory", "throughput"])
def test_axes_begin_where_those_of_the_run_s_own_picture_do(name: str) -> None:
    """What a comparison leaves out of a run's picture has its room all the same."""
    single, several = (
        only_axes(figure)
        for figure in (make_figure(name, healthy(40)), make_comparison(name, [("a", healthy(40)), ("b", healthy(40))]))
    )

    assert several.get_ylim()[0] == pytest.approx(single.get_ylim()[0], rel=0.2)
    assert several.get_xlim()[0] == single.get_xlim()[0]


def test_a_group_is_the_mean_of_its_runs_in_a_band_from_lowest_to_highest() -> None:
    """It ends with the first of its runs: the mean of fewer would be another curve."""
    group = [RunHistory.from_frame(scaled(healthy(n), k)) for n, k in ((20, 1.0), (20, 2.0), (15, 3.0))]
    figure = plots.make_comparison("grad_norm", [("group", group), ("one", [group[0]])])
    ax = only_axes(figure)
    (_, mean), (_, single) = drawn(ax, "line")
    (band,) = [c for c in ax.collections if c.get_gid() == "band"]
    heights = np.asarray(band.get_paths()[0].vertices)
    own = numbers(healthy(20), "grad_norm")

    assert mean[np.isfinite(mean)] == pytest.approx(2 * own[:15])
    assert single[np.isfinite(single)] == pytest.approx(own)
    assert (heights[:, 1].min(), heights[:, 1].max()) == pytest.approx((own[:15].min(), 3 * own.max()))
    assert "group's mean" in notes(figure)


def test_what_all_long_names_begin_with_is_left_out() -> None:
    """Runs of a sweep differ in their last words."""
    runs = [(f"emnist-ablation-of-the-schedule-lr{k}", healthy(3)) for k in (1, 2)]
    texts = visible_texts(make_comparison("learning_rate", runs))

    assert {"lr1", "lr2"} == {text.get_text() for text in texts if text.get_gid() == "end"}
