"""One sentence per plot that reads the figure for the reader, from the data alone.

Every sentence names its numbers with unit and epoch. A metric that was never measured, or never finite, is said to be
so; nothing here judges a run (that is what findings are for).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import median

from mlflow_ddpm.core.extra_metrics import metric
from mlflow_ddpm.core.formatting import format_duration, format_number
from mlflow_ddpm.core.metrics import Points, Rows, finite_points, value_of
from mlflow_ddpm.core.run_summary import summarise

__all__ = ["describe_plot"]


def describe_plot(name: str, rows: Rows) -> str:
    """Return the sentence for a plot; empty for a plot that has none, or a run without epochs."""
    if name not in _READINGS or not rows:
        return ""
    main, sentence = _READINGS[name]
    points = finite_points(rows, main)
    if points:
        return sentence(points, rows)
    measured = any(value_of(row, main) is not None for row in rows)
    return "No finite value was measured." if measured else "Not measured in this run."


def _at(point: tuple[int, float], unit: str = "") -> str:
    return f"{format_number(point[1])}{unit and ' ' + unit} (epoch {point[0]})"


def _lowest(points: Points) -> tuple[int, float]:
    return min(points, key=lambda p: p[1])


def _highest(points: Points) -> tuple[int, float]:
    return max(points, key=lambda p: p[1])


def _loss_linear(points: Points, _rows: Rows) -> str:
    if len(points) == 1:
        return f"The mean loss is {_at(points[0])}."
    return f"The mean loss goes from {_at(points[0])} to {_at(points[-1])}; its lowest is {_at(_lowest(points))}."


def _loss_log(points: Points, _rows: Rows) -> str:
    first, best = points[0], _lowest(points)
    if best[1] <= 0:
        return f"The lowest loss, {_at(best)}, has no place on a logarithmic axis."
    if best == first:
        return f"No epoch is below the first, {_at(first)}."
    middle = max(math.sqrt(first[1]) * math.sqrt(best[1]), best[1])  # the product of two may be 0 or infinite
    half = next(epoch for epoch, loss in points if loss <= middle)
    times = format_number(float(f"{first[1] / best[1]:.3g}"))
    return f"The loss falls {times}-fold to its lowest, epoch {best[0]}; half of that, on this axis, by epoch {half}."


def _loss_distribution(points: Points, rows: Rows) -> str:
    means = dict(finite_points(rows, "loss_mean"))
    epoch, spread = points[-1]
    share = f", {spread / means[epoch]:.0%} of the mean" if means.get(epoch, 0.0) > 0 else ""
    first = f"; it was {_at(points[0])} at first" if len(points) > 1 else ""
    return f"The batch losses' standard deviation ends at {_at(points[-1])}{share}{first}."


def _learning_rate(points: Points, _rows: Rows) -> str:
    low, top = _lowest(points), _highest(points)
    if low[1] == top[1]:
        return f"The learning rate is {format_number(top[1])} throughout."
    over = f" over a peak of {_at(top)}" if top[1] > max(points[0][1], points[-1][1]) else ""
    return f"The learning rate goes from {_at(points[0])}{over} to {_at(points[-1])}."


def _middle_and_extremes(noun: str, unit: str = "") -> Callable[[Points, Rows], str]:
    def sentence(points: Points, _rows: Rows) -> str:
        middle = f"{format_number(median(v for _, v in points))}{unit and ' ' + unit}"
        if _lowest(points)[1] == _highest(points)[1]:
            return f"The {noun} is {middle} throughout."
        return f"The median {noun} is {middle}, between {_at(_lowest(points))} and {_at(_highest(points))}."

    return sentence


def _gpu_memory(points: Points, rows: Rows) -> str:
    unit = metric("gpu_peak_mb").unit
    reserved = finite_points(rows, "gpu_reserved_mb")
    held = f"; the allocator held up to {_at(_highest(reserved), unit)}" if reserved else ""
    return f"Allocated memory peaks at {_at(_highest(points), unit)}{held}."


def _ema_divergence(points: Points, _rows: Rows) -> str:
    if _lowest(points)[1] == _highest(points)[1]:
        return f"The distance is {format_number(points[0][1])} throughout."
    return f"The distance is largest at {_at(_highest(points))} and ends at {_at(points[-1])}."


def _loss_derivative(points: Points, _rows: Rows) -> str:
    steps = [(b[0], b[1] - a[1]) for a, b in pairwise(points) if b[0] == a[0] + 1]
    if not steps:
        return "No two epochs in a row, so no change to show."
    rises = [step for step in steps if step[1] > 0]
    worst = f"; the largest rise is {_at(_highest(rises))}" if rises else ""
    return f"The loss fell in {sum(change < 0 for _, change in steps)} of {len(steps)} steps between epochs{worst}."


def _dashboard(points: Points, rows: Rows) -> str:
    summary = summarise(rows)
    epochs = "1 epoch" if summary.epochs == 1 else f"{summary.epochs} epochs"
    time = f" in {format_duration(summary.total_time_sec)}" if summary.total_time_sec is not None else ""
    return f"{epochs}{time}; the lowest mean loss is {_at(_lowest(points))}."


# Plot name: the metric without which there is nothing to read, and the sentence.
_READINGS: Mapping[str, tuple[str, Callable[[Points, Rows], str]]] = {
    "loss_linear": ("loss_mean", _loss_linear),
    "loss_log": ("loss_mean", _loss_log),
    "loss_distribution": ("loss_std", _loss_distribution),
    "learning_rate": ("lr", _learning_rate),
    "grad_norm": ("grad_norm", _middle_and_extremes("gradient norm")),
    "throughput": ("samples_per_sec", _middle_and_extremes("throughput", metric("samples_per_sec").unit)),
    "gpu_memory": ("gpu_peak_mb", _gpu_memory),
    "ema_divergence": ("ema_delta_norm", _ema_divergence),
    "epoch_timing": ("epoch_time_sec", _middle_and_extremes("epoch time", metric("epoch_time_sec").unit)),
    "loss_derivative": ("loss_mean", _loss_derivative),
    "training_dashboard": ("loss_mean", _dashboard),
}
