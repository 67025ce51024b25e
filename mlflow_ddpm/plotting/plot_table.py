"""The table of plots: a plot is one row of it, from which titles, captions, sentences, data and files follow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.plotting import panels as draw
from mlflow_ddpm.plotting import sentences as say
from mlflow_ddpm.plotting.sentences import Sentence
from mlflow_ddpm.plotting.series import EARLY, Quantity, Series, changes, plus_minus_std, positive, series
from mlflow_ddpm.plotting.themes import check_choice

MARK = "mark"  # the column of words: what is marked in a row


class Plot(NamedTuple):
    """One row of the table."""

    name: str  # of its files, without suffix
    title: str
    caption: str  # one sentence on how to read it
    comparison_caption: str  # the same of a picture with several runs
    describe: Sentence  # what it shows of a run, in one sentence; empty for a run without epochs
    draw: Callable[..., None] | None = None  # one run: called with axes, quantity=, history=
    quantity: Quantity = Quantity("", "")  # what is drawn, and what a comparison overlays
    columns: tuple[str, ...] = ()  # of its CSV: metrics as measured, their "_median", and names of _DERIVED
    repeats: tuple[str, ...] = ()  # of a grid: the plots that are its panels, row by row

    @property
    def panels(self) -> tuple[Plot, ...]:
        """The plots that it is made of: the plot itself, if it is no grid."""
        return tuple(plot_named(name) for name in self.repeats) or (self,)


_LOSS = Quantity("loss_mean", "log_batch was never called", max_outlier_share=EARLY, lower="loss_min")

PLOTS: tuple[Plot, ...] = (
    Plot(
        "loss_linear",
        "Loss (Linear)",
        "Training loss with best-epoch marker (★) and min/max band.",
        "Mean loss of each epoch; ★ marks the best epoch of each run.",
        say.describe_loss,
        draw.draw_loss,
        _LOSS._replace(has_best=True),
        ("loss_mean", "loss_min", "loss_max"),
    ),
    Plot(
        "loss_log",
        "Loss (Log Scale)",
        "The same on a log axis, which shows the early epochs and the late ones alike.",
        "The same on a log axis, which shows the early epochs and the late ones alike.",
        say.describe_fall,
        draw.draw_loss,
        _LOSS._replace(has_best=True, is_log=True),
        ("loss_mean", "loss_min", "loss_max"),
    ),
    Plot(
        "loss_distribution",
        "Loss Distribution",
        "Mean and median loss of each epoch's batches; the band is one standard deviation to either side of the mean.",
        "Mean loss of each epoch's batches; a band, where one is drawn, is one standard deviation to either side.",
        say.describe_spread,
        draw.draw_distribution,
        _LOSS._replace(has_spread=True),
        ("loss_mean", "loss_median", "loss_mean_minus_std", "loss_mean_plus_std"),
    ),
    Plot(
        "learning_rate",
        "Learning Rate",
        "Learning rate of each epoch's last batch.",
        "Learning rate of each epoch's last batch.",
        say.describe_learning_rate,
        draw.draw_line,
        Quantity("lr", "log_batch got no lr"),
        ("lr",),
    ),
    Plot(
        "grad_norm",
        "Gradient Norm",
        "Global L2 gradient norm per epoch. Spikes indicate potential instability.",
        "Global L2 gradient norm per epoch.",
        say.describe_typical("grad_norm", "gradient norm"),
        draw.draw_line,
        Quantity("grad_norm", "log_batch got no grad_norm"),
        ("grad_norm",),
    ),
    Plot(
        "throughput",
        "Throughput",
        "Training speed of each epoch; the dashed line is the median.",
        "Training speed of each epoch.",
        say.describe_throughput,
        draw.draw_bars,
        Quantity("samples_per_sec", "no batch was counted", from_zero=True, is_rate=True),
        ("samples_per_sec", "samples_per_sec_median"),
    ),
    Plot(
        "gpu_memory",
        "GPU Memory",
        "CUDA memory allocation over training. Useful for capacity planning on multi-GPU nodes.",
        "Peak of the allocated CUDA memory in each epoch.",
        say.describe_memory,
        draw.draw_memory,
        Quantity("gpu_peak_mb", "no CUDA device", lower="gpu_allocated_mb"),
        ("gpu_allocated_mb", "gpu_reserved_mb", "gpu_peak_mb"),
    ),
    Plot(
        "ema_divergence",
        "EMA Divergence",
        "Distance between the live weights and their exponential moving average.",
        "Distance between the live weights and their exponential moving average.",
        say.describe_distance,
        draw.draw_line,
        Quantity("ema_delta_norm", "neither watch nor end_epoch\ngot an ema_model"),
        ("ema_delta_norm",),
    ),
    Plot(
        "epoch_timing",
        "Epoch Timing",
        "Wall-clock seconds of each epoch; the dashed line is the median.",
        "Wall-clock seconds of each epoch.",
        say.describe_typical("epoch_time_sec", "epoch time"),
        draw.draw_bars,
        Quantity("epoch_time_sec", "no epoch was timed", from_zero=True),
        ("epoch_time_sec", "epoch_time_sec_median"),
    ),
    Plot(
        "loss_derivative",
        "Loss Derivative",
        "Change of the mean loss from the epoch before: below zero (green) it improved, above (red) it worsened.",
        "Change of the mean loss from the epoch before: below zero it improved, above it worsened.",
        say.describe_changes,
        draw.draw_change,
        Quantity("loss_mean", _LOSS.missing_reason, is_change=True, from_zero=True),
        ("loss_mean_change",),
    ),
    Plot(
        "training_dashboard",
        "Training Dashboard",
        "3\u00d73 overview: loss, LR, gradients, throughput, GPU memory, EMA divergence, timing, and loss derivative.",
        "All runs at a glance: loss, its change, learning rate, gradients, EMA, speed and memory.",
        say.describe_best_epoch,
        repeats=(
            "loss_linear", "loss_log", "loss_derivative",
            "learning_rate", "grad_norm", "ema_divergence",
            "throughput", "epoch_timing", "gpu_memory",
        ),
    ),
)  # fmt: skip


def plot_named(name: str) -> Plot:
    """Return the table's row of a name, or raise UsageError."""
    by_name = {plot.name: plot for plot in PLOTS}
    check_choice("plot", name, by_name)
    return by_name[name]


def plot_columns(name: str, history: RunHistory) -> dict[str, list[Any]]:
    """Return the columns of a plot's CSV: the numbers that it shows of a run, every row, before thinning or clipping.

    They are ``epoch``, what is drawn, and what is marked in a row (``best``, ``resumed``). The three kinds of "no
    number" stay apart: None is nothing to show, NaN and infinities are what the picture marks as not finite, an epoch
    without a row is in no line.
    """
    panels = plot_named(name).panels
    epochs = [row.epoch for row in history.rows]
    drawn = dict(_column(column, panel.quantity, history) for panel in panels for column in panel.columns)
    starred = next((panel.quantity for panel in panels if panel.quantity.has_best), None)
    best = -1
    if starred:
        loss = starred.of(history)
        loss = positive(loss) if starred.is_log else loss  # what a log axis cannot show is not its best
        best = int(np.nanargmin(loss.value)) if len(loss.finite) else -1
    resumed = set(history.resumed_at_epochs)
    marks = [
        " ".join(word for word, is_so in (("best", i == best), ("resumed", epoch in resumed)) if is_so)
        for i, epoch in enumerate(epochs)
    ]
    return {"epoch": epochs, **drawn, MARK: marks}


def _column(name: str, quantity: Quantity, history: RunHistory) -> tuple[str, list[float | None]]:
    """Return a column and its name; of throughput, the one that the picture shows."""
    shown = quantity.in_runs([history])
    name = name.replace(quantity.metric, shown.metric)
    if name == f"{shown.metric}_median":
        finite = shown.of(history).finite
        return name, [float(np.median(finite)) if len(finite) else None] * len(history.rows)
    if name in _DERIVED:
        return name, [value if math.isfinite(value) else None for value in _DERIVED[name](history).value.tolist()]
    return name, [None if (value := row.value(name)) is None else float(value) for row in history.rows]


_DERIVED: dict[str, Callable[[RunHistory], Series]] = {  # columns that are no metrics, as the panels compute them
    "loss_mean_minus_std": lambda history: plus_minus_std(history)[0],
    "loss_mean_plus_std": lambda history: plus_minus_std(history)[1],
    "loss_mean_change": lambda history: changes(series(history, "loss_mean")),
}
