"""Histories to draw, made by formula, and ways to read a figure back."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.text import Text

from mlflow_ddpm.analysis.frame import RESUMED, frame_from_rows, rows_from_frame
from mlflow_ddpm.core.metrics import EpochMetrics

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAN, INF = math.nan, math.inf


def healthy_row(epoch: int) -> EpochMetrics:
    """Return an epoch of a run that goes well: falling loss, warm-up, a slow first epoch."""
    wobble = math.sin(epoch * 12.9898) * 0.5
    mean = 0.025 + 0.4 * math.exp(-epoch / 2) + 0.001 * wobble
    seconds = 12.0 + 0.3 * wobble + (9.0 if epoch == 0 else 0.0)
    return EpochMetrics(
        epoch=epoch,
        loss_mean=mean,
        loss_std=0.2 * mean,
        loss_min=0.6 * mean,
        loss_max=1.9 * mean,
        loss_median=0.95 * mean,
        lr=2e-4 * min(1.0, (epoch + 1) / 5),
        grad_norm=0.4 + math.exp(-epoch / 3) + 0.05 * wobble,
        samples_per_sec=60_000 / seconds,
        batches_per_sec=468 / seconds,
        gpu_allocated_mb=1840.25,
        gpu_reserved_mb=6220.0 if epoch < 20 else 6480.0,
        gpu_peak_mb=5634.5,
        ema_delta_norm=3 * (1 - math.exp(-epoch / 4)),
        epoch_time_sec=seconds,
        cumulative_time_sec=12.0 * (epoch + 1) + 9.0,
        nonfinite_batches=0,
        logged_at_ms=1_700_000_000_000 + epoch,
    )


@cache
def healthy(epochs: int) -> pd.DataFrame:
    """Return the history of a healthy run."""
    return frame_from_rows(healthy_row(epoch) for epoch in range(epochs))


def changed(frame: pd.DataFrame, epoch: int, **values: Any) -> pd.DataFrame:
    """Return the history with other values in one epoch; None is not measured."""
    rows = rows_from_frame(frame)
    return frame_from_rows(replace(row, **values) if row.epoch == epoch else row for row in rows)


def everywhere(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return the history with the same value in every epoch."""
    return frame_from_rows(replace(row, **values) for row in rows_from_frame(frame))


def scaled(frame: pd.DataFrame, factor: float) -> pd.DataFrame:
    """Return the history with every float but the times of the clock multiplied: another run of the same kind."""
    names = [name for name in frame.columns if frame[name].dtype == "Float64" and name != "cumulative_time_sec"]
    other = frame.copy()
    other[names] = frame[names] * factor
    return other


@cache
def sick(epochs: int) -> pd.DataFrame:
    """Return a history with a missing epoch, NaN, infinity, a spike and unmeasured metrics, as far as it is long."""
    frame = healthy(epochs)
    frame = changed(frame, epochs // 3, loss_mean=NAN, loss_std=NAN, loss_min=NAN, loss_max=NAN, grad_norm=NAN)
    frame = changed(frame, epochs // 2, loss_mean=INF, grad_norm=INF, ema_delta_norm=None)
    frame = changed(frame, 3 * epochs // 4, loss_mean=9.0, loss_max=90.0, grad_norm=700.0, epoch_time_sec=4000.0)
    return frame[frame["epoch"] != epochs // 4].reset_index(drop=True)


@cache
def resumed(epochs: int) -> pd.DataFrame:
    """Return a sick history of a run that was cut off and went on three times."""
    frame = sick(epochs).copy()
    frame.attrs[RESUMED] = (epochs // 5, epochs // 4 + 1, epochs - 2)
    return frame


@cache
def constant(epochs: int) -> pd.DataFrame:
    """Return a history in which nothing changes."""
    row = healthy_row(0)
    return frame_from_rows(replace(row, epoch=epoch, logged_at_ms=epoch) for epoch in range(epochs))


def only_axes(figure: Figure) -> Axes:
    """Return the axes of a plot that has one panel."""
    (ax,) = figure.axes
    return ax


def drawn(ax: Axes, kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return x and y of the lines of one kind: line, dots, best or edge."""
    return [
        (np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float))
        for line in ax.lines
        if line.get_gid() == kind
    ]


def words(figure: Figure) -> list[str]:
    """Return all that can be read in the figure."""
    return [text.get_text() for text in visible_texts(figure)]


def notes(figure: Figure) -> str:
    """Return the notes under the titles."""
    return " | ".join(text.get_text() for text in visible_texts(figure) if text.get_gid() == "note")


def visible_texts(figure: Figure) -> list[Text]:
    """Return the figure's texts that show."""
    texts = [artist for artist in figure.findobj(Text) if isinstance(artist, Text)]
    return [text for text in texts if text.get_visible() and text.get_text()]
