"""The panels: each draws one quantity of one run on given axes, and notes above them what it cannot show."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.extra_metrics import metric
from mlflow_ddpm.plotting.axes import (
    epoch_axis,
    epoch_ticks,
    linear_axis,
    log_axis,
    show_missing_reason,
    show_placeholder,
    width_in_em,
)
from mlflow_ddpm.plotting.lines import (
    Trace,
    add_end_labels,
    band,
    bars,
    bars_stand_apart,
    downsampling_note,
    line,
    star,
)
from mlflow_ddpm.plotting.notes import Note, add_notes
from mlflow_ddpm.plotting.series import Quantity, Series, memory_unit, plus_minus_std, positive, series
from mlflow_ddpm.plotting.text import duration, epochs_text, number
from mlflow_ddpm.plotting.themes import setting
from mlflow_ddpm.plotting.undrawable import mark_nonfinite, mark_not_positive, mark_offscale, mark_resumes, missing_note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_CHANGE = "no change to show yet:\nit takes two epochs in a row"
NO_POSITIVE = "no loss above zero:\na log axis cannot show it"
_POINTS_PER_EM = 1.5  # of the line that stands for too many bars
_MEMORY = (("gpu_peak_mb", "C4", "-"), ("gpu_reserved_mb", "C5", "--"), ("gpu_allocated_mb", "C0", "-."))


def draw_loss(ax: Axes, quantity: Quantity, history: RunHistory) -> None:
    """Draw each epoch's mean loss within its batches' minimum and maximum, and mark the best epoch."""
    mean, low, high = (series(history, name) for name in (quantity.metric, "loss_min", "loss_max"))
    nothing = NO_POSITIVE if quantity.is_log and not (mean.finite > 0).any() else ""
    if not _begin(ax, mean, quantity, history, nothing):
        return
    extent = (mean.finite, low.finite, high.finite)
    unseen, mean_seen = None, mean
    if quantity.is_log:
        log_axis(ax, quantity.label(), *extent)
        unseen = mark_not_positive(ax, [Trace(mean)], "loss") or mark_not_positive(ax, [Trace(low)], "minimum")
        mean_seen, low = positive(mean), replace(low, value=np.maximum(low.value, ax.get_ylim()[0]))
    else:
        best = float(mean.finite.min())
        linear_axis(ax, quantity.label(), *extent, spikes=quantity.max_outlier_share, always_include=best)
    band(ax, low, high, "C0")
    line(ax, Trace(mean_seen))
    epoch, value = star(ax, Trace(mean_seen), "C1")
    brief = f"best {number(value)}"
    explained = [
        *_exceptions(ax, mean, [mean_seen, low, high]),
        unseen,
        Note(f"{brief} at {epochs_text(mean, np.array([epoch]))}", "C1", brief, "*", "best"),
        Note("mean", "C0", swatch="-"),
        Note("batch min\u2013max", "C0", "min\u2013max", "band"),
    ]
    _add_notes(ax, explained, mean, history, downsampling_note(ax, mean))


def draw_distribution(ax: Axes, quantity: Quantity, history: RunHistory) -> None:
    """Draw each epoch's mean and median loss, and one standard deviation to either side of the mean."""
    mean, median = (series(history, name) for name in (quantity.metric, "loss_median"))
    if not _begin(ax, mean, quantity, history):
        return
    low, high = plus_minus_std(history)
    extent = (mean.finite, median.finite, low.finite, high.finite)
    linear_axis(ax, quantity.label(), *extent, spikes=quantity.max_outlier_share)
    band(ax, low, high, "C0")
    line(ax, Trace(mean))
    line(ax, Trace(median, "C4", "--"), dots=False)  # on top of the mean, which shows between its dashes
    explained = [
        *_exceptions(ax, mean, [mean, low, high]),
        Note("mean", "C0", swatch="-"),
        Note("median", "C4", swatch="--"),
        Note("mean \u00b1 1\u03c3", "C0", "\u00b1 1\u03c3", "band"),
    ]
    _add_notes(ax, explained, mean, history, downsampling_note(ax, mean))


def draw_change(ax: Axes, quantity: Quantity, history: RunHistory) -> None:
    """Draw each change of the mean loss from the epoch before: improving below zero, worsening above."""
    mean, change = series(history, quantity.metric), quantity.of(history)
    if not _begin(ax, mean, quantity, history, "" if change.measured else NO_CHANGE):
        return
    linear_axis(ax, quantity.label(), change.finite, np.zeros(1), spikes=quantity.max_outlier_share)
    better, worse = (replace(change, value=np.where(sign * change.value > 0, change.value, np.nan)) for sign in (-1, 1))
    raised = max(bars(ax, better, "C2"), bars(ax, worse, "C3"))
    zero_line(ax)
    unchanged = change.measured - len(better.finite) - len(worse.finite)
    least = number(float(f"{raised:.2g}"))
    explained = [
        Note(f"{len(better.finite):,} improving", "C2", "better", "bar"),
        Note(f"{len(worse.finite):,} worsening", "C3", "worse", "bar"),
        *_exceptions(ax, mean, [change]),
        Note(f"{unchanged:,} unchanged") if unchanged else None,
        Note(f"changes under {least} are drawn {least} high", brief=f"lowest bars raised to {least}")
        if raised
        else None,
    ]
    _add_notes(ax, explained, mean, history, downsampling_note(ax, change, is_bars=True))


def draw_line(ax: Axes, quantity: Quantity, history: RunHistory) -> None:
    """Draw a metric as a line."""
    values = quantity.of(history)
    if not _begin(ax, values, quantity, history):
        return
    linear_axis(ax, quantity.label(), values.finite, spikes=quantity.max_outlier_share)
    line(ax, Trace(values))
    exceptions = _exceptions(ax, values, [values])
    is_clipped = any(note.swatch in ("^", "v") for note in exceptions)
    extremes = Note(f"last {number(values.finite[-1])}") if is_clipped else _extremes(values)
    _add_notes(ax, [extremes, *exceptions], values, history, downsampling_note(ax, values))


def draw_bars(ax: Axes, quantity: Quantity, history: RunHistory) -> None:
    """Draw a metric as bars with their median, or as a line with its range where bars would be a solid block."""
    quantity = quantity.in_runs([history])
    values = quantity.of(history)
    if not _begin(ax, values, quantity, history):
        return
    linear_axis(ax, history.worded(quantity.label()), values.finite, np.zeros(1))
    columns = int(_POINTS_PER_EM * width_in_em(ax))
    stand_apart = bars_stand_apart(ax, values.spacing)
    if stand_apart:
        bars(ax, values, "C0")
    else:
        line(ax, Trace(values), columns=columns)
    median, color = float(np.median(values.finite)), str(setting("text.color"))
    ax.axhline(median, color=color, linestyle="--", linewidth=setting("lines.linewidth") / 2, gid="median")
    explained = [Note(f"median {number(median)} {metric(quantity.metric).unit}", color, "median", "--", "median")]
    if quantity.metric == "batches_per_sec":
        explained.append(Note("batch sizes unknown: no samples/s", "C4", "no batch sizes"))
    if quantity.metric == "epoch_time_sec":  # the run's time counts epochs without a row too where it was measured
        cumulative = series(history, "cumulative_time_sec").finite
        total = cumulative[-1] if len(cumulative) else values.finite.sum()
        explained.append(Note(f"training time {duration(total)}"))
    explained += _exceptions(ax, values, [values])
    _add_notes(ax, explained, values, history, None if stand_apart else downsampling_note(ax, values, columns))


def draw_memory(ax: Axes, quantity: Quantity, history: RunHistory) -> None:
    """Draw peak, reserved and allocated CUDA memory as lines, each named at its end."""
    traces = [
        Trace(series(history, name), color, style, metric(name).label.removeprefix("GPU "))
        for name, color, style in _MEMORY
    ]
    traces = [trace for trace in traces if trace.series.measured] or traces[:1]
    unit, factor = memory_unit(quantity.metric, (trace.series for trace in traces))
    traces = [trace._replace(series=trace.series.scaled(factor)) for trace in traces]
    peak = traces[0].series
    if not _begin(ax, peak, quantity, history):
        return
    linear_axis(ax, f"GPU memory ({unit})", *(trace.series.finite for trace in traces))
    for trace in traces:
        line(ax, trace)
    add_end_labels(ax, float(peak.epoch[-1]), [trace for trace in traces if len(trace.series.finite)])
    epoch_ticks(ax, float(peak.epoch[0]), float(peak.epoch[-1]))
    top = int(np.nanargmax(peak.value))
    brief = f"peak {number(peak.value[top])} {unit}"
    text = f"{brief} at {epochs_text(peak, peak.epoch[[top]])}"
    reserved = series(history, "gpu_reserved_mb").scaled(factor).finite
    highest = Note(f"{text}, reserved up to {number(reserved.max())}" if len(reserved) else text, brief=brief)
    exceptions = _exceptions(ax, peak, [trace.series for trace in traces])
    _add_notes(ax, [highest, *exceptions], peak, history, downsampling_note(ax, peak))


def zero_line(ax: Axes) -> None:
    """Draw a line at zero that looks like an axis."""
    spine = ax.spines["bottom"]
    ax.axhline(0, color=spine.get_edgecolor(), linewidth=spine.get_linewidth(), gid="zero")


def _begin(ax: Axes, main: Series, quantity: Quantity, history: RunHistory, nothing: str = "") -> bool:
    """Span the run's epochs and return True; or, where there is nothing to draw, show why."""
    if show_missing_reason(ax, main, history.worded(quantity.missing_reason)):
        return False
    if nothing:
        show_placeholder(ax, history.worded(nothing))
        return False
    first, last = (float(history.rows[i].epoch) for i in (0, -1))
    epoch_axis(ax, first, last, label=history.axis_label, spacing=history.spacing)
    return True


def _exceptions(ax: Axes, main: Series, drawn: list[Series]) -> list[Note]:
    """Mark what the panel cannot show of its main series, and of all that it draws."""
    nonfinite = mark_nonfinite(ax, [Trace(main)])
    return [*([nonfinite] if nonfinite else []), *mark_offscale(ax, [Trace(values) for values in drawn])]


def _add_notes(
    ax: Axes, explained: Iterable[Note | None], main: Series, history: RunHistory, downsampling: Note | None
) -> None:
    """Write a panel's notes, then those on the run: missing rows, resumes, and how many rows share a point."""
    resumed = mark_resumes(ax, [(Trace(main), history.resumed_at_epochs)])
    add_notes(ax, [*explained, missing_note(main), resumed, downsampling])


def _extremes(values: Series) -> Note:
    """Note where the series is highest and where it ends."""
    top, last = int(np.nanargmax(values.value)), float(values.finite[-1])
    where = f" at {epochs_text(values, values.epoch[[top]])}"
    if len(values.finite) == 1:
        return Note(number(last) + where)
    if values.finite.min() == values.finite.max():
        return Note(f"{number(last)} throughout")
    highest = f"highest {number(values.value[top])}"
    end = "the last" if not values.drawable[top + 1 :].any() else f"last {number(last)}"
    return Note(f"{highest}{where}, {end}", brief=highest)
