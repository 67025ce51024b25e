"""The sentence under each plot reads the figure from the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.plotting.plot_table import PLOTS, plot_named


def history(name: str, values: Mapping[int, float | None], **others: Sequence[float]) -> RunHistory:
    """Return rows in which one metric has these values, and others theirs, epoch by epoch."""
    return RunHistory.create(
        EpochMetrics(epoch=epoch, **{name: value}, **{other: series[i] for other, series in others.items()})  # type: ignore[arg-type]
        for i, (epoch, value) in enumerate(values.items())
    )


@pytest.mark.parametrize("plot", [plot.name for plot in PLOTS])
def test_every_plot_has_a_sentence_and_says_when_nothing_was_measured(plot: str) -> None:
    """A run without epochs has no figure to read."""
    assert plot_named(plot).describe(RunHistory.create([])) == ""
    assert plot_named(plot).describe(RunHistory.create([EpochMetrics(epoch=0)])) == "Not measured in this run."


@pytest.mark.parametrize(
    ("plot", "metric", "values", "expected"),
    [
        ("loss_linear", "loss_mean", {4: 0.5}, "The mean loss is 0.5 (epoch 4)."),
        ("loss_linear", "loss_mean", {0: math.nan, 1: math.inf}, "No finite value was measured."),
        (
            "loss_linear",
            "loss_mean",
            {0: 1.0, 1: 0.25, 2: math.nan, 3: 0.5},
            "The mean loss goes from 1 (epoch 0) to 0.5 (epoch 3); its lowest is 0.25 (epoch 1).",
        ),
        ("loss_linear", "loss_mean", {0: 0.5, 1: 1.0},
         "The mean loss goes from 0.5 (epoch 0), which is its lowest, to 1 (epoch 1)."),
        ("loss_linear", "loss_mean", {0: 0.5, 1: 0.5}, "The mean loss is 0.5 throughout."),
        ("loss_distribution", "loss_std", {0: 0.5, 1: 0.5}, "The batch losses' standard deviation is 0.5 throughout."),
        (
            "loss_log",
            "loss_mean",
            {0: 1.0, 1: 0.05, 2: 0.01},
            "The loss falls 20-fold by epoch 1 and 100-fold by epoch 2, where it is lowest: 0.01.",
        ),
        ("loss_log", "loss_mean", {0: 1.0, 1: 2.0}, "No epoch is below the first, 1 (epoch 0)."),
        ("loss_log", "loss_mean", {0: 1.0, 1: -2.0},
         "The lowest loss, -2 (epoch 1), has no place on a logarithmic axis."),
        ("learning_rate", "lr", {0: 0.1, 1: 0.1}, "The learning rate is 0.1 throughout."),
        (
            "learning_rate",
            "lr",
            {0: 0.1, 1: 0.2, 2: 0.0},
            "The learning rate goes from 0.1 (epoch 0) to 0 (epoch 2), with a peak of 0.2 (epoch 1).",
        ),
        (
            "throughput",
            "samples_per_sec",
            {0: 90.0, 1: 110.0, 2: 100.0},
            "The median throughput is 100 samples/s; values range from 90 (epoch 0) to 110 (epoch 1).",
        ),
        ("gpu_memory", "gpu_peak_mb", {0: 5.0, 1: 7.5}, "Allocated memory peaks at 7.5 MiB (epoch 1)."),
        ("ema_divergence", "ema_delta_norm", {0: 2.0, 1: 1.0},
         "The distance is largest at 2 (epoch 0) and ends at 1 (epoch 1)."),
        ("ema_divergence", "ema_delta_norm", {0: 1.0, 1: 2.0}, "The distance is largest at the end, 2 (epoch 1)."),
        ("epoch_timing", "epoch_time_sec", {7: 2.5}, "The epoch time is 2.5 s (epoch 7)."),
        ("loss_derivative", "loss_mean", {0: 1.0, 2: 0.5}, "No two epochs in a row, so no change to show."),
        (
            "loss_derivative",
            "loss_mean",
            {0: 1.0, 1: 0.5, 2: 0.75},
            (
                "From one epoch to the next, the loss fell in 1 of 2 cases and rose in 1; "
                "the largest rise is 0.25 (epoch 2)."
            ),
        ),
    ],
)  # fmt: skip
def test_the_sentence_names_values_with_their_epochs(
    plot: str, metric: str, values: Mapping[int, float | None], expected: str
) -> None:
    """Numbers come with unit and epoch; values that are not finite are passed over."""
    assert plot_named(plot).describe(history(metric, values)) == expected


def test_the_spread_is_set_against_the_mean() -> None:
    """The distribution's sentence gives the share of the mean where there is one."""
    rows = history("loss_std", {0: 0.5, 1: 0.1}, loss_mean=[1.0, 0.4])

    expected = "The batch losses' standard deviation ends at 0.1 (epoch 1), 25% of the mean; it began at 0.5 (epoch 0)."
    assert plot_named("loss_distribution").describe(rows) == expected


def test_the_dashboard_sums_the_run_up() -> None:
    """Epochs, time and lowest loss in one sentence."""
    rows = history("loss_mean", {0: 1.0, 1: 0.5}, cumulative_time_sec=[30.0, 61.0])

    expected = "2 epochs in 1 min 01 s (61.0 s) of training; the lowest mean loss is 0.5 (epoch 1)."
    assert plot_named("training_dashboard").describe(rows) == expected
