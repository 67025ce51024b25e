"""One sentence per plot that reads the figure for the reader, from the data alone.

Every sentence names its numbers with unit and epoch. It states when a metric was never measured, or never finite; it
does not judge a run (that is what findings are for).
"""

import math
from collections.abc import Callable
from itertools import pairwise
from statistics import median

from mlflow_ddpm.analysis.run_history import Points, RunHistory
from mlflow_ddpm.core.extra_metrics import metric
from mlflow_ddpm.core.formatting import format_duration, format_number
from mlflow_ddpm.plotting.series import GAP, memory_unit, rate_name, series

Sentence = Callable[[RunHistory], str]


def _about(name: str) -> Callable[[Callable[[Points, RunHistory], str]], Sentence]:
    """Make a sentence about the finite points of a metric; without any, it states why there are none."""

    def decorate(describe: Callable[[Points, RunHistory], str]) -> Sentence:
        def sentence(history: RunHistory) -> str:
            drawn = series(history, name)
            points = list(zip(drawn.epoch[drawn.drawable].astype(int).tolist(), drawn.finite.tolist(), strict=True))
            if points:
                return describe(points, history)
            if not history.rows:
                return ""
            return "No finite value was measured." if drawn.measured else "Not measured in this run."

        return sentence

    return decorate


def _at(point: tuple[int, float], history: RunHistory, unit: str = "") -> str:
    return f"{format_number(point[1])}{unit and ' ' + unit} ({history.axis_label.lower()} {point[0]:,})"


def _throughout(points: Points, history: RunHistory, unit: str = "") -> str:
    """Return the one value of all points."""
    same = f"{format_number(points[0][1])}{unit and ' ' + unit} throughout"
    return same if len(points) > 1 else _at(points[0], history, unit)


def _lowest(points: Points) -> tuple[int, float]:
    return min(points, key=lambda p: p[1])


def _highest(points: Points) -> tuple[int, float]:
    return max(points, key=lambda p: p[1])


@_about("loss_mean")
def describe_loss(points: Points, history: RunHistory) -> str:
    """Return where the mean loss begins, ends and is lowest."""
    first, last, best = points[0], points[-1], _lowest(points)
    if best[1] == _highest(points)[1]:
        return f"The mean loss is {_throughout(points, history)}."
    start, end = _at(first, history), _at(last, history)
    if best == first:
        return f"The mean loss goes from {start}, which is its lowest, to {end}."
    lowest = ", which is its lowest" if best == last else f"; its lowest is {_at(best, history)}"
    return f"The mean loss goes from {start} to {end}{lowest}."


@_about("loss_mean")
def describe_fall(points: Points, history: RunHistory) -> str:
    """Return by which factor the loss falls, and when half of the way on a logarithmic axis is done."""
    first, best, noun = points[0], _lowest(points), history.axis_label.lower()
    if best[1] <= 0:
        return f"The lowest loss, {_at(best, history)}, has no place on a logarithmic axis."
    if best == first:
        return f"{history.worded('No epoch is below the first')}, {_at(first, history)}."
    middle = max(math.sqrt(first[1]) * math.sqrt(best[1]), best[1])  # the product of two may be 0 or infinite
    half = next(point for point in points if point[1] <= middle)
    whole = f"{_times(first, best)} by {noun} {best[0]:,}, where it is lowest: {format_number(best[1])}"
    early = "" if half[0] == best[0] else f"{_times(first, half)} by {noun} {half[0]:,} and "
    return f"The loss falls {early}{whole}."


def _times(first: tuple[int, float], later: tuple[int, float]) -> str:
    return f"{format_number(float(f'{first[1] / later[1]:.3g}'))}-fold"


@_about("loss_std")
def describe_spread(points: Points, history: RunHistory) -> str:
    """Return the standard deviation of the batch losses at the end, and its share of the mean."""
    means, first, last = dict(history.points("loss_mean")), points[0], points[-1]
    share = f", {last[1] / means[last[0]]:.0%} of the mean" if means.get(last[0], 0.0) > 0 else ""
    if len(points) == 1:
        spread = f"is {_at(first, history)}{share}"
    elif _lowest(points)[1] == _highest(points)[1]:
        spread = f"is {_throughout(points, history)}"
    else:
        spread = f"ends at {_at(last, history)}{share}; it began at {_at(first, history)}"
    return f"The batch losses' standard deviation {spread}."


@_about("lr")
def describe_learning_rate(points: Points, history: RunHistory) -> str:
    """Return where the learning rate begins, peaks and ends."""
    low, top = _lowest(points), _highest(points)
    if low[1] == top[1]:
        return f"The learning rate is {_throughout(points, history)}."
    peak = f", with a peak of {_at(top, history)}" if top[1] > max(points[0][1], points[-1][1]) else ""
    return f"The learning rate goes from {_at(points[0], history)} to {_at(points[-1], history)}{peak}."


def describe_typical(name: str, noun: str) -> Sentence:
    """Return a sentence on the median of a metric and its extremes."""
    unit = metric(name).unit

    def describe(points: Points, history: RunHistory) -> str:
        middle = f"{format_number(median(v for _, v in points))}{unit and ' ' + unit}"
        if _lowest(points)[1] == _highest(points)[1]:
            return f"The {history.worded(noun)} is {_throughout(points, history, unit)}."
        lowest, highest = _at(_lowest(points), history), _at(_highest(points), history)
        return f"The median {history.worded(noun)} is {middle}; values range from {lowest} to {highest}."

    return _about(name)(describe)


def describe_throughput(history: RunHistory) -> str:
    """Return the median throughput: in batches where no batch size is known, as the picture."""
    return describe_typical(rate_name(history), "throughput")(history)


@_about("gpu_peak_mb")
def describe_memory(points: Points, history: RunHistory) -> str:
    """Return the peaks of allocated and reserved memory, in the picture's unit."""
    names = ("gpu_peak_mb", "gpu_reserved_mb", "gpu_allocated_mb")
    unit, factor = memory_unit("gpu_peak_mb", [series(history, name) for name in names])
    reserved = history.points("gpu_reserved_mb")
    (peak, top), held = _highest(points), ""
    if reserved:
        epoch, most = _highest(reserved)
        held = f"; the allocator held up to {_at((epoch, most * factor), history, unit)}"
    return f"Allocated memory peaks at {_at((peak, top * factor), history, unit)}{held}."


@_about("ema_delta_norm")
def describe_distance(points: Points, history: RunHistory) -> str:
    """Return where the distance of the EMA weights is largest and where it ends."""
    if _lowest(points)[1] == _highest(points)[1]:
        return f"The distance is {_throughout(points, history)}."
    if points[-1][1] == _highest(points)[1]:
        return f"The distance is largest at the end, {_at(points[-1], history)}."
    return f"The distance is largest at {_at(_highest(points), history)} and ends at {_at(points[-1], history)}."


@_about("loss_mean")
def describe_changes(points: Points, history: RunHistory) -> str:
    """Return how often the loss fell and rose, and its largest rise."""
    changes = [(b[0], b[1] - a[1]) for a, b in pairwise(points) if b[0] - a[0] < GAP * history.spacing]
    if not changes:
        return history.worded("No two epochs in a row, so no change to show.")
    rises = [change for change in changes if change[1] > 0]
    fell = sum(change < 0 for _, change in changes)
    worst = f" and rose in {len(rises):,}; the largest rise is {_at(_highest(rises), history)}" if rises else ""
    fall = f"the loss fell in {fell:,} of {len(changes):,} cases"
    return f"{history.worded('From one epoch to the next')}, {fall}{worst}."


@_about("loss_mean")
def describe_best_epoch(points: Points, history: RunHistory) -> str:
    """Return how long the run is and what its lowest loss is."""
    summary = history.summary
    if history.axis_label == "Epoch":
        length = "1 epoch" if summary.epochs == 1 else f"{summary.epochs:,} epochs"
    else:
        length = f"{history.rows[-1].epoch:,} {history.axis_label.lower()}s"
    seconds = summary.training_time_sec
    time = "" if seconds is None else f" in {format_duration(seconds)} of training"
    return f"{length}{time}; the lowest mean loss is {_at(_lowest(points), history)}."
