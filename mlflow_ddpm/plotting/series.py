"""One metric of a history, made ready to draw: what is missing stays a gap, what was broken is kept apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.analysis.frame import numbers

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Series", "around", "changes", "rate_name", "series"]

_HUGE = 1e300  # what drawing can still add and multiply without overflow; below its inverse, all is zero


@dataclass(frozen=True, slots=True)
class Series:
    """A metric over the epochs that have a row, in their order."""

    epoch: Floats
    value: Floats  # NaN: nothing to draw, either not measured or not finite
    broken: Floats  # the epochs whose value was measured and is not finite
    broken_as: str  # "NaN", "inf" or "NaN or inf"; "" if none is
    measured: int  # epochs with a value of any kind

    @property
    def drawable(self) -> NDArray[np.bool_]:
        """Tell which values are finite."""
        return np.isfinite(self.value)

    @property
    def finite(self) -> Floats:
        """Return the finite values alone."""
        return self.value[self.drawable]


def series(history: pd.DataFrame, name: str) -> Series:
    """Return a column of the history; empty of values where the history lacks it."""
    raw = numbers(history, name)
    measured = history[name].notna().to_numpy(dtype=bool) if name in history else np.zeros(len(raw), dtype=bool)
    broken = measured & ~np.isfinite(raw)
    kinds = [
        word for word, found in (("NaN", np.isnan(raw[broken]).any()), ("inf", np.isinf(raw[broken]).any())) if found
    ]
    epoch = numbers(history, "epoch")
    value = np.where(np.isfinite(raw), np.clip(raw, -_HUGE, _HUGE), np.nan)
    value[np.abs(value) < 1 / _HUGE] = 0.0
    return Series(epoch, value, epoch[broken], " or ".join(kinds), int(measured.sum()))


def changes(of: Series) -> Series:
    """Return each value's change from the epoch before; NaN where that epoch is missing or either is not finite."""
    steps = np.full(len(of.epoch), np.nan)
    follows = np.flatnonzero(np.diff(of.epoch) == 1) + 1
    steps[follows] = of.value[follows] - of.value[follows - 1]
    return Series(of.epoch, steps, of.broken, of.broken_as, int(np.isfinite(steps).sum()))


def around(history: pd.DataFrame) -> tuple[Series, Series]:
    """Return one standard deviation below and above the mean loss."""
    mean, std = series(history, "loss_mean"), series(history, "loss_std")
    return replace(mean, value=mean.value - std.value), replace(mean, value=mean.value + std.value)


def rate_name(history: pd.DataFrame) -> str:
    """Return the metric of throughput: samples per second or, where batch sizes are unknown, batches per second."""
    samples, batches = series(history, "samples_per_sec"), series(history, "batches_per_sec")
    return "batches_per_sec" if batches.measured and not samples.measured else "samples_per_sec"
