"""The table of plots: a plot is one row of it, from which titles, captions, sentences, data and files follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.plotting import descriptions as say
from mlflow_ddpm.plotting import panels as draw
from mlflow_ddpm.plotting import plot_data as data
from mlflow_ddpm.plotting.descriptions import Sentence
from mlflow_ddpm.plotting.series import EARLY, Quantity, positive
from mlflow_ddpm.plotting.themes import check_choice


class Plot(NamedTuple):
    """One row of the table."""

    name: str  # of its files, without suffix
    title: str
    caption: str  # one sentence on how to read it
    comparison_caption: str  # the same of a picture with several runs
    describe: Sentence  # what it shows of a run, in one sentence; empty for a run without epochs
    draw: Callable[..., None] | None = None  # one run: called with axes, quantity=, history=
    quantity: Quantity = Quantity("", "")  # what is drawn, and what a comparison overlays
    columns: data.Columns | None = None  # the data of its CSV
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
        data.measured("loss_mean", "loss_min", "loss_max"),
    ),
    Plot(
        "loss_log",
        "Loss (Log Scale)",
        "The same on a log axis, which shows the early epochs and the late ones alike.",
        "The same on a log axis, which shows the early epochs and the late ones alike.",
        say.describe_fall,
        draw.draw_loss,
        _LOSS._replace(has_best=True, is_log=True),
        data.measured("loss_mean", "loss_min", "loss_max"),
    ),
    Plot(
        "loss_distribution",
        "Loss Distribution",
        "Mean and median loss of each epoch's batches; the band is one standard deviation to either side of the mean.",
        "Mean loss of each epoch's batches; a band, where one is drawn, is one standard deviation to either side.",
        say.describe_spread,
        draw.draw_distribution,
        _LOSS._replace(has_spread=True),
        data.distribution_columns,
    ),
    Plot(
        "learning_rate",
        "Learning Rate",
        "Learning rate of each epoch's last batch.",
        "Learning rate of each epoch's last batch.",
        say.describe_learning_rate,
        draw.draw_line,
        Quantity("lr", "log_batch got no lr"),
        data.measured("lr"),
    ),
    Plot(
        "grad_norm",
        "Gradient Norm",
        "Global L2 gradient norm per epoch. Spikes indicate potential instability.",
        "Global L2 gradient norm per epoch.",
        say.describe_typical("grad_norm", "gradient norm"),
        draw.draw_line,
        Quantity("grad_norm", "log_batch got no grad_norm"),
        data.measured("grad_norm"),
    ),
    Plot(
        "throughput",
        "Throughput",
        "Training speed of each epoch; the dashed line is the median.",
        "Training speed of each epoch.",
        say.describe_throughput,
        draw.draw_bars,
        Quantity("samples_per_sec", "no batch was counted", from_zero=True, is_rate=True),
        data.rate_columns,
    ),
    Plot(
        "gpu_memory",
        "GPU Memory",
        "CUDA memory allocation over training. Useful for capacity planning on multi-GPU nodes.",
        "Peak of the allocated CUDA memory in each epoch.",
        say.describe_memory,
        draw.draw_memory,
        Quantity("gpu_peak_mb", "no CUDA device", lower="gpu_allocated_mb"),
        data.measured("gpu_allocated_mb", "gpu_reserved_mb", "gpu_peak_mb"),
    ),
    Plot(
        "ema_divergence",
        "EMA Divergence",
        "Distance between the live weights and their exponential moving average.",
        "Distance between the live weights and their exponential moving average.",
        say.describe_distance,
        draw.draw_line,
        Quantity("ema_delta_norm", "neither watch nor end_epoch\ngot an ema_model"),
        data.measured("ema_delta_norm"),
    ),
    Plot(
        "epoch_timing",
        "Epoch Timing",
        "Wall-clock seconds of each epoch; the dashed line is the median.",
        "Wall-clock seconds of each epoch.",
        say.describe_typical("epoch_time_sec", "epoch time"),
        draw.draw_bars,
        Quantity("epoch_time_sec", "no epoch was timed", from_zero=True),
        data.time_columns,
    ),
    Plot(
        "loss_derivative",
        "Loss Derivative",
        "Change of the mean loss from the epoch before: below zero (green) it improved, above (red) it worsened.",
        "Change of the mean loss from the epoch before: below zero it improved, above it worsened.",
        say.describe_changes,
        draw.draw_change,
        Quantity("loss_mean", _LOSS.missing_reason, is_change=True, from_zero=True),
        data.change_columns,
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


def plot_columns(name: str, history: RunHistory) -> dict[str, list[int] | list[float | None] | list[str]]:
    """Return the data of a plot of a run: see :func:`mlflow_ddpm.plotting.plot_data.plot_columns`."""
    panels = plot_named(name).panels
    starred = next((panel.quantity for panel in panels if panel.quantity.has_best), None)
    best = starred and starred.of(history)
    if best and starred and starred.is_log:
        best = positive(best)  # what a log axis cannot show is not its best
    return data.plot_columns([panel.columns for panel in panels if panel.columns], history, best)
