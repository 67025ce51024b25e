"""The table of plots: each row is one figure, from which titles, captions and files follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from mlflow_ddpm.plotting.figure import check
from mlflow_ddpm.plotting.hardware_panels import epoch_timing, gpu_memory, throughput
from mlflow_ddpm.plotting.loss_panels import loss_derivative, loss_distribution, loss_linear, loss_log
from mlflow_ddpm.plotting.optimizer_panels import ema_divergence, grad_norm, learning_rate

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["PLOTS", "Plot", "plot_named", "title_of"]

Panel = Callable[["Axes", "pd.DataFrame"], None]


class Plot(NamedTuple):
    """One row of the table: file name without suffix, title, what is drawn, and one sentence on how to read it."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    caption: str


PLOTS: tuple[Plot, ...] = (
    Plot(
        "loss_linear",
        "Loss (Linear)",
        (loss_linear,),
        "Training loss with best-epoch marker (★) and min/max band.",
    ),
    Plot(
        "loss_log",
        "Loss (Log Scale)",
        (loss_log,),
        "The same on a log axis, which shows the early epochs and the late ones alike.",
    ),
    Plot(
        "loss_distribution",
        "Loss Distribution",
        (loss_distribution,),
        "Mean and median loss of each epoch's batches; the band is one standard deviation to either side of the mean.",
    ),
    Plot(
        "learning_rate",
        "Learning Rate",
        (learning_rate,),
        "Learning rate of each epoch's last batch.",
    ),
    Plot(
        "grad_norm",
        "Gradient Norm",
        (grad_norm,),
        "Global L2 gradient norm per epoch. Spikes indicate potential instability.",
    ),
    Plot(
        "throughput",
        "Throughput",
        (throughput,),
        "Training speed of each epoch; the dashed line is the median.",
    ),
    Plot(
        "gpu_memory",
        "GPU Memory",
        (gpu_memory,),
        "CUDA memory allocation over training. Useful for capacity planning on multi-GPU nodes.",
    ),
    Plot(
        "ema_divergence",
        "EMA Divergence",
        (ema_divergence,),
        "Distance between the live weights and their exponential moving average.",
    ),
    Plot(
        "epoch_timing",
        "Epoch Timing",
        (epoch_timing,),
        "Wall-clock seconds of each epoch; the dashed line is the median.",
    ),
    Plot(
        "loss_derivative",
        "Loss Derivative",
        (loss_derivative,),
        "Change of the mean loss from the epoch before: below zero (green) it improved, above (red) it worsened.",
    ),
    Plot(
        "training_dashboard",
        "Training Dashboard",
        (
            loss_linear, loss_log, loss_derivative,
            learning_rate, grad_norm, ema_divergence,
            throughput, epoch_timing, gpu_memory,
        ),
        "3\u00d73 overview: loss, LR, gradients, throughput, GPU memory, EMA divergence, timing, and loss derivative.",
    ),
)  # fmt: skip

_TITLES = {plot.panels[0]: plot.title for plot in PLOTS if len(plot.panels) == 1}
_BY_NAME = {plot.name: plot for plot in PLOTS}


def plot_named(name: str) -> Plot:
    """Return the table's row of a name.

    Raises:
        UsageError: no such plot.
    """
    check("plot", name, _BY_NAME)
    return _BY_NAME[name]


def title_of(panel: Panel) -> str:
    """Return the title of a panel, which is that of the plot that holds it alone."""
    return _TITLES[panel]
