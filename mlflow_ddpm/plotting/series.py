"""What a panel shows of a run: one metric, ready to draw. Missing values stay gaps, non-finite ones are kept apart."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlflow_ddpm.analysis.frame import numbers
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.extra_metrics import axis_label, metric

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]

GAP = 1.5  # times the usual spacing: rows further apart have a gap between them
_HUGE = 1e300  # what drawing can still add and multiply without overflow; below its inverse, all is zero
EARLY, _RARE = 0.1, 0.02  # how many of the rows may run off scale: of a loss (it falls by decades at first), of others
_GIB_FROM, _MIB_TO_GIB = 10 * 1024, 1 / 1024  # MiB


@dataclass(frozen=True, slots=True)
class Series:
    """A metric over the rows of a run, in their order."""

    epoch: Floats
    value: Floats  # NaN: nothing to draw, either not measured or not finite
    nonfinite_epochs: Floats  # whose value was measured and is not finite
    nonfinite_kind: str  # "NaN", "inf" or "NaN or inf"; "" if all are finite
    measured: int  # rows with a value of any kind
    spacing: float  # the usual distance of two rows
    noun: str  # what the rows count: "epoch" or "step"

    @property
    def drawable(self) -> Flags:
        """Tell which values are finite."""
        return np.isfinite(self.value)

    @property
    def finite(self) -> Floats:
        """Return the finite values alone."""
        return self.value[self.drawable]

    @property
    def last_point(self) -> tuple[float, float]:
        """Return epoch and value of the last finite value; there must be one."""
        last = np.flatnonzero(self.drawable)[-1]
        return float(self.epoch[last]), float(self.value[last])

    def count_text(self, rows: int) -> str:
        """Count rows: as epochs, or as windows of steps."""
        return f"{rows:,} {'epoch' if self.noun == 'epoch' else 'window'}{'' if rows == 1 else 's'}"

    def scaled(self, factor: float) -> Self:
        """Return the series in another unit."""
        return replace(self, value=self.value * factor)


def series(history: RunHistory, name: str) -> Series:
    """Return a metric of the run; without values where it was not measured."""
    frame = history.frame
    raw, epoch = numbers(frame, name), numbers(frame, "epoch")
    measured = frame[name].notna().to_numpy(dtype=bool) if name in frame else np.zeros(len(raw), dtype=bool)
    nonfinite = measured & ~np.isfinite(raw)
    kinds = [kind for kind, test in (("NaN", np.isnan), ("inf", np.isinf)) if test(raw[nonfinite]).any()]
    value = np.where(np.isfinite(raw), np.clip(raw, -_HUGE, _HUGE), np.nan)
    value[np.abs(value) < 1 / _HUGE] = 0.0
    noun = history.axis_label.lower()
    if name == "epoch_time_sec" and len(epoch) > 1 and history.rows[-1].partial:  # shorter than the others
        epoch, value, measured, nonfinite = epoch[:-1], value[:-1], measured[:-1], nonfinite[:-1]
    return Series(epoch, value, epoch[nonfinite], " or ".join(kinds), int(measured.sum()), history.spacing, noun)


def changes(loss: Series) -> Series:
    """Return each value's change from the row before; NaN where a gap lies between or either is not finite."""
    change = np.full(len(loss.epoch), np.nan)
    next_rows = np.flatnonzero(np.diff(loss.epoch) < GAP * loss.spacing) + 1
    change[next_rows] = loss.value[next_rows] - loss.value[next_rows - 1]
    return replace(loss, value=change, measured=int(np.isfinite(change).sum()))


def positive(loss: Series) -> Series:
    """Return what a logarithmic axis can show."""
    return replace(loss, value=np.where(loss.value > 0, loss.value, np.nan))


def plus_minus_std(history: RunHistory) -> tuple[Series, Series]:
    """Return one standard deviation below and above the mean loss."""
    mean, std = series(history, "loss_mean"), series(history, "loss_std")
    return replace(mean, value=mean.value - std.value), replace(mean, value=mean.value + std.value)


def rate_name(*histories: RunHistory) -> str:
    """Return the metric of throughput: samples per second or, where no batch size is known, batches per second."""
    samples, batches = (
        any(series(history, name).measured for history in histories) for name in ("samples_per_sec", "batches_per_sec")
    )
    return "batches_per_sec" if batches and not samples else "samples_per_sec"


def memory_unit(name: str, drawn: Iterable[Series]) -> tuple[str, float]:
    """Return the unit of a metric's axis and the factor to it: GiB in place of MiB from 10 GiB on."""
    unit = metric(name).unit
    highest = max((float(np.max(values.finite)) for values in drawn if len(values.finite)), default=0.0)
    return ("GiB", _MIB_TO_GIB) if unit == "MiB" and highest >= _GIB_FROM else (unit, 1.0)


def nonfinite_kinds(drawn: Sequence[Series]) -> str:
    """Return what the values that are not finite are: "NaN", "inf" or "NaN or inf"; "" if there are none."""
    return " or ".join(kind for kind in ("NaN", "inf") if any(kind in member.nonfinite_kind for member in drawn))


def mean_and_range(group: list[Series]) -> tuple[Series, Series, Series]:
    """Return mean, minimum and maximum over the runs of a group at each epoch, of those that have a number there.

    They begin and end where all runs that were measured have rows: the mean of other runs would be another curve.
    """
    import pandas as pd

    values = pd.concat([pd.Series(member.value, member.epoch) for member in group], axis=1).sort_index()
    measured = [member.epoch for member in group if len(member.finite)]
    if measured:
        shared = values.loc[max(epochs[0] for epochs in measured) : min(epochs[-1] for epochs in measured)]
        values = shared if len(shared) else values
    together = replace(
        group[0],
        epoch=values.index.to_numpy(),
        nonfinite_epochs=np.unique(np.concatenate([member.nonfinite_epochs for member in group])),
        nonfinite_kind=nonfinite_kinds(group),
        measured=max(member.measured for member in group),
    )
    mean, low, high = (
        replace(together, value=column.to_numpy())
        for column in (values.mean(axis=1), values.min(axis=1), values.max(axis=1))
    )
    return mean, low, high


class Quantity(NamedTuple):
    """What is drawn of each run, in its own picture and in a comparison."""

    metric: str
    missing_reason: str  # why it may not have been measured
    max_outlier_share: float = _RARE
    from_zero: bool = False
    has_best: bool = False  # the lowest value gets a star
    is_log: bool = False
    is_change: bool = False  # from the row before
    is_rate: bool = False  # in batches where no run knows its batch sizes
    has_spread: bool = False  # a comparison draws one standard deviation to either side
    lower: str = ""  # a further metric of a run's own picture, which its axis has to reach

    def in_runs(self, histories: Iterable[RunHistory]) -> Self:
        """Return the quantity with the metric that there is; one unit serves all runs of a picture."""
        return self._replace(metric=rate_name(*histories)) if self.is_rate else self

    def label(self, unit: str = "") -> str:
        """Return the label of the value axis."""
        if unit:
            return f"{metric(self.metric).label} ({unit})"
        return f"Change of {axis_label(self.metric).lower()}" if self.is_change else axis_label(self.metric)

    def of(self, history: RunHistory) -> Series:
        """Return what is drawn of a run."""
        values = series(history, self.metric)
        return changes(values) if self.is_change else values
