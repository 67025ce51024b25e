"""Several runs in one panel: what a picture of one run shows, as one line a run in the run's own colour.

Axes, limits, gaps and marks are those of the pictures of one run. A group of runs is drawn as its mean, in a band from
its lowest to its highest run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlflow_ddpm.core.formatting import count_of
from mlflow_ddpm.plotting.axes import (
    SPIKE_RATIO,
    epoch_axis,
    linear_axis,
    log_axis,
    show_missing_reason,
    show_placeholder,
    spike_limit,
    width_in_em,
)
from mlflow_ddpm.plotting.lines import Trace, add_end_labels, band, downsampling_note, line, star
from mlflow_ddpm.plotting.notes import Note, add_notes
from mlflow_ddpm.plotting.panels import NO_CHANGE, NO_POSITIVE, zero_line
from mlflow_ddpm.plotting.run_styles import RunLine, with_short_names
from mlflow_ddpm.plotting.series import (
    Floats,
    Quantity,
    Series,
    mean_and_range,
    memory_unit,
    plus_minus_std,
    positive,
    series,
)
from mlflow_ddpm.plotting.text import epochs_text, number
from mlflow_ddpm.plotting.undrawable import mark_nonfinite, mark_not_positive, mark_offscale, mark_resumes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BANDS = 3  # this many runs at most show their spread as a band; more would be mud
_NAME_SHARE = 0.6  # of the width of the axes in ems, how many letters a name may have


class _Curve(NamedTuple):
    """What is drawn of one run or group."""

    run: RunLine
    trace: Trace
    low: Series  # of the group; the series itself for one run
    high: Series


def draw_overlay(ax: Axes, quantity: Quantity, runs: Sequence[RunLine], *, is_named: bool) -> None:
    """Draw one line a run; ``is_named`` writes each run's name beside the end of its line."""
    if is_named:
        runs = with_short_names(runs, int(_NAME_SHARE * width_in_em(ax)))
    histories = [history for run in runs for history in run.histories]
    quantity = quantity.in_runs(histories)
    unit, factor = memory_unit(quantity.metric, (quantity.of(history) for history in histories))
    every = [_curve(quantity, run, factor) for run in runs]
    drawn = [_positive(curve) for curve in every] if quantity.is_log else every
    drawn = [curve for curve in drawn if len(curve.trace.series.finite)]
    if not drawn:
        _show_reason(ax, quantity, runs)
        return
    traces = [curve.trace for curve in drawn]
    epochs, spacing = np.concatenate([t.series.epoch for t in traces]), min(t.series.spacing for t in traces)
    epoch_axis(ax, epochs.min(), epochs.max(), label=histories[0].axis_label, spacing=spacing)
    _value_axis(ax, quantity, drawn, unit, factor)
    if quantity.is_change:
        zero_line(ax)
    bands = _draw_bands(ax, quantity, drawn)
    aligned = _on_the_same_epochs(traces)
    for trace in aligned:
        line(ax, trace)
    best = _best_note(ax, traces) if quantity.has_best else None
    unseen = mark_not_positive(ax, [curve.trace for curve in every], "loss") if quantity.is_log else None
    nonfinite = mark_nonfinite(ax, [curve.trace for curve in every])
    single = [curve for curve in drawn if len(curve.run.histories) == 1]
    resumed = mark_resumes(ax, [(curve.trace, curve.run.histories[0].resumed_at_epochs) for curve in single])
    offscale = mark_offscale(ax, traces)
    if is_named:
        add_end_labels(ax, epochs.max(), traces)
    rest = [bands, _unmeasured_note(every), resumed, downsampling_note(ax, aligned[0].series)]
    add_notes(ax, [best, nonfinite, *offscale, unseen, *rest])


def _curve(quantity: Quantity, run: RunLine, factor: float) -> _Curve:
    group = [quantity.of(history).scaled(factor) for history in run.histories]
    mean, low, high = mean_and_range(group) if len(group) > 1 else (group[0],) * 3
    return _Curve(run, Trace(mean, run.color, run.style, run.name), low, high)


def _positive(curve: _Curve) -> _Curve:
    trace = curve.trace._replace(series=positive(curve.trace.series))
    return curve._replace(trace=trace, low=positive(curve.low), high=positive(curve.high))


def _show_reason(ax: Axes, quantity: Quantity, runs: Sequence[RunLine]) -> None:
    """Show why no run has anything to draw, in the words of the picture of one run."""
    every = [series(history, quantity.metric) for run in runs for history in run.histories]
    fullest = max(every, key=lambda values: (len(values.finite), values.measured, len(values.epoch)))
    worded = runs[0].histories[0].worded
    if not show_missing_reason(ax, fullest, worded(quantity.missing_reason)):
        show_placeholder(ax, worded(NO_CHANGE) if quantity.is_change else NO_POSITIVE)


def _value_axis(ax: Axes, quantity: Quantity, drawn: Sequence[_Curve], unit: str, factor: float) -> None:
    """Fit the axis to what is usual in the runs, and begin it where the axes of the runs' own pictures begin."""
    values = [np.concatenate([curve.low.finite, curve.high.finite]) for curve in drawn]
    histories = [history for curve in drawn for history in curve.run.histories]
    further = [series(history, quantity.lower).finite * factor for history in histories if quantity.lower]
    label = histories[0].worded(quantity.label() if factor == 1 else quantity.label(unit))
    if quantity.is_log:
        log_axis(ax, label, *values, *(low[low > 0] for low in further))
        return
    limit = _common_limit(values, quantity.max_outlier_share)
    shown = [finite[np.abs(finite) <= limit] for finite in values]
    lows = [finite.min() for finite in shown]
    highs = [finite.max() for finite in shown]
    lows += [low.min() for low in further if len(low) and abs(low.min()) <= max(highs)]
    if quantity.has_best:
        highs.append(max(curve.trace.series.finite.min() for curve in drawn))  # no run's star is off scale
    zero = np.zeros(1 if quantity.from_zero else 0)
    linear_axis(ax, label, np.array([min(lows), max(highs)]), zero)


def _common_limit(values: Sequence[Floats], max_outlier_share: float) -> float:
    """Return the size up to which values are shown.

    A spike is one among its own run's values. If few runs go far beyond all others, they leave the picture there, as a
    run that diverges does; but half of each run's values stay in it.
    """
    limits = sorted(spike_limit(finite, max_outlier_share) for finite in values)
    usual = max(float(np.median(np.abs(finite))) for finite in values)
    steps = list(pairwise(limits))[(len(limits) - 1) // 2 :]
    far = (low for low, high in steps if low >= usual and high > SPIKE_RATIO * low)
    return 2 * next(far, limits[-1])


def _on_the_same_epochs(traces: Sequence[Trace]) -> list[Trace]:
    """Return the runs with the epochs of all, so that what depends on their number (dots, columns) is alike in all.

    Runs that log every other epoch, or end inside a window, keep their own rows: a gap is one among their own.
    """
    spacings = {trace.series.spacing for trace in traces}
    epochs = np.unique(np.concatenate([trace.series.epoch for trace in traces]))
    if len(spacings) > 1 or (np.diff(epochs) < max(spacings)).any():
        return list(traces)
    aligned = []
    for trace in traces:
        value = np.full(len(epochs), np.nan)
        value[np.searchsorted(epochs, trace.series.epoch)] = trace.series.value
        aligned.append(trace._replace(series=replace(trace.series, epoch=epochs, value=value)))
    return aligned


def _draw_bands(ax: Axes, quantity: Quantity, drawn: Sequence[_Curve]) -> Note | None:
    """Draw and note the range of groups and, of few single runs, the spread of their batches."""
    has_spread = quantity.has_spread and len(drawn) <= MOST_BANDS
    for curve in drawn:
        if len(curve.run.histories) > 1:
            band(ax, curve.low, curve.high, curve.trace.color)
        elif has_spread:
            band(ax, *plus_minus_std(curve.run.histories[0]), curve.trace.color)
    if any(len(curve.run.histories) > 1 for curve in drawn):
        return Note("group's mean, band: its runs' range", brief="band: range of runs", swatch="band")
    return Note("mean \u00b1 1\u03c3", swatch="band") if has_spread else None


def _best_note(ax: Axes, traces: Sequence[Trace]) -> Note:
    """Mark the best epoch of each run, and note which run's is best of all."""
    stars = [(star(ax, trace, trace.color), trace) for trace in traces]
    (epoch, value), winner = min(stars, key=lambda starred: starred[0][::-1])
    where = epochs_text(winner.series, np.array([epoch]))
    return Note(
        f"best of all: {winner.name}, {number(value)} at {where}", winner.color, f"best of all: {number(value)}", "*"
    )


def _unmeasured_note(every: Sequence[_Curve]) -> Note | None:
    """Name the runs that have no value here at all."""
    names = [curve.run.name for curve in every if not curve.trace.series.measured]
    return Note(f"not measured: {', '.join(names)}", brief=f"not in {count_of(len(names), 'run')}") if names else None
