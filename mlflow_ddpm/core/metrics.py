"""One epoch's measurements, and the table that names them.

A metric is declared here as one dataclass field with its label, unit and meaning. CSV columns, JSON keys, MLflow keys,
axis labels, report columns and docs/metrics.md are derived from :data:`METRICS`; nothing else spells a metric's name
to declare it. Extras that the included pipeline records are described in :data:`PIPELINE_METRICS`. This module reads no
clock, touches no file and imports nothing heavy.

Three kinds of "no number" stay apart: *not measured* is ``None``; *measured and not finite* is a float NaN or infinity;
*no such epoch* is the absence of a row.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.formatting import short_repr

Number = int | float | None
WHOLE_MAX = 2**53 - 1  # what JSON readers and plots, which count in float64, still tell apart


class Point(NamedTuple):
    """One value of one metric, as the tracking store gets it."""

    key: str
    value: float
    timestamp_ms: int
    step: int


class Metric(NamedTuple):
    """One entry of the table of metrics."""

    name: str  # CSV column, JSON key and MLflow key
    label: str  # for axes and report columns, without unit
    unit: str  # empty for a metric without a unit
    category: str
    meaning: str
    integral: bool = False


def _metric(label: str, unit: str, category: str, meaning: str, default: Any = None) -> Any:
    about = {"label": label, "unit": unit, "category": category, "meaning": meaning}
    return field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """One row: everything that was measured in one epoch. ``None`` means not measured."""

    epoch: int = _metric(
        "Epoch",
        "",
        "Epoch",
        "The number given to `start_epoch`, or with `every_n_steps` the steps done; the MLflow step.",
        MISSING,
    )
    loss_mean: float | None = _metric("Loss (mean)", "", "Loss", "Mean over the epoch's finite batch losses.")
    loss_std: float | None = _metric(
        "Loss (std)", "", "Loss", "Population standard deviation (divisor n) of the finite batch losses."
    )
    loss_min: float | None = _metric("Loss (min)", "", "Loss", "Smallest finite batch loss.")
    loss_max: float | None = _metric("Loss (max)", "", "Loss", "Largest finite batch loss.")
    loss_median: float | None = _metric(
        "Loss (median)", "", "Loss", "Median of the finite batch losses; an even count takes the midpoint."
    )
    lr: float | None = _metric("Learning rate", "", "Learning Rate", "Learning rate of the epoch's last batch.")
    grad_norm: float | None = _metric(
        "Gradient norm",
        "",
        "Gradient Norm",
        "Mean of the finite global L2 norms of all gradients, before clipping, of the batches that have one.",
    )
    samples_per_sec: float | None = _metric(
        "Throughput", "samples/s", "Throughput", "Samples of all ranks, divided by `epoch_time_sec`."
    )
    batches_per_sec: float | None = _metric(
        "Batch rate", "batches/s", "Throughput", "Batches of rank 0, divided by `epoch_time_sec`."
    )
    gpu_allocated_mb: float | None = _metric(
        "GPU allocated", "MiB", "GPU Memory", "CUDA memory in tensors at the end of the epoch (2**20 bytes)."
    )
    gpu_reserved_mb: float | None = _metric(
        "GPU reserved", "MiB", "GPU Memory", "CUDA memory held by the allocator at the end of the epoch."
    )
    gpu_peak_mb: float | None = _metric(
        "GPU peak", "MiB", "GPU Memory", "Largest allocated CUDA memory since `start_epoch`."
    )
    ema_delta_norm: float | None = _metric(
        "EMA distance", "", "EMA", "Global L2 distance between the model's parameters and their moving average (EMA)."
    )
    epoch_time_sec: float | None = _metric(
        "Epoch time",
        "s",
        "Timing",
        "From `start_epoch` to `end_epoch`, less pauses; queued device work counts.",
    )
    cumulative_time_sec: float | None = _metric(
        "Cumulative time", "s", "Timing", "Sum of `epoch_time_sec` over the run, epochs before a resume included."
    )
    nonfinite_batches: int | None = _metric(
        "Non-finite batches",
        "batches",
        "Loss",
        "Batches whose loss or gradient norm was NaN or infinite; the statistics leave those values out.",
    )
    skipped_steps: int | None = _metric(
        "Skipped steps",
        "steps",
        "Loss",
        "Those of `nonfinite_batches` whose loss was finite: GradScaler skips such steps, by design.",
    )
    batches: int | None = _metric("Batches", "batches", "Epoch", "Batches logged into this row.")
    partial: int | None = _metric(
        "Partial",
        "",
        "Epoch",
        "1 if the row covers only part of its epoch or window: after a resume in the middle, or at the end; else 0.",
    )
    # What follows are not metrics of the table: the caller's own scalars, and when the row was written.
    extra: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))
    logged_at_ms: int = 0  # Unix time; the timestamp of the row's MLflow points, kept when they are sent again

    @classmethod
    def from_cells(cls, cells: Mapping[str, Any]) -> Self:
        """Return the row of cells by column: the table's metrics, ``logged_at_ms``, extras less those that are None.

        Raises ValueError unless ``epoch`` and ``logged_at_ms`` are whole numbers from 0 to 2**63 - 1.
        """
        epoch, logged_at_ms = cells["epoch"], cells["logged_at_ms"]
        if any(type(number) is not int or not 0 <= number < 2**63 for number in (epoch, logged_at_ms)):
            raise ValueError(f"epoch and logged_at_ms must be whole numbers >= 0, got {epoch!r}, {logged_at_ms!r}")
        table = {name: cells[name] for name in TABLE_COLUMNS if name in cells}
        extra = {name: value for name, value in cells.items() if name not in _OWN_COLUMNS and value is not None}
        return cls(**table, extra=extra, logged_at_ms=logged_at_ms)

    @property
    def faulty_batches(self) -> int:
        """Batches that were not finite, less the steps that GradScaler skips by design."""
        return (self.nonfinite_batches or 0) - (self.skipped_steps or 0)

    def values(self) -> dict[str, Number]:
        """Return the table's metrics in order, then the extras by name; ``epoch`` comes first."""
        row: dict[str, Number] = {name: getattr(self, name) for name in TABLE_COLUMNS}
        row.update((name, self.extra[name]) for name in sorted(self.extra))
        return row

    def value(self, name: str) -> float | None:
        """Return one metric or extra."""
        found: float | None = getattr(self, name) if name in _OWN_COLUMNS else self.extra.get(name)
        return found

    def points(self) -> list[Point]:
        """Return what the tracking store gets: every measured value at step ``epoch``, at the row's first timestamp."""
        measured = ((name, value) for name, value in self.values().items() if value is not None and name != "epoch")
        return [Point(name, float(value), self.logged_at_ms, self.epoch) for name, value in measured]


METRICS: tuple[Metric, ...] = tuple(
    Metric(name=f.name, integral=f.type in (int, int | None), **f.metadata) for f in fields(EpochMetrics) if f.metadata
)
TABLE_COLUMNS = tuple(m.name for m in METRICS)
INTEGRAL_COLUMNS = frozenset(m.name for m in METRICS if m.integral) | {"logged_at_ms"}
_OWN_COLUMNS = frozenset(TABLE_COLUMNS) | {"logged_at_ms"}


def supersedes(row: EpochMetrics, older: EpochMetrics, every_n_steps: int | None) -> bool:
    """Return whether a row, written later, makes an older one void: it does the same epochs or steps again.

    Where rows are windows of ``every_n_steps``, a run that ended inside a window left a partial row with a number of
    its own; the window's next row makes it void, unless it begins where that one ended. Where a step has several
    batches, the older row shows how many. An earlier life may have had windows of another length, so a row stays where
    the later one continues its time.
    """
    if older.epoch >= row.epoch:
        return True
    if not older.partial or _continues(row, older):
        return False
    begin = (row.epoch - 1) // every_n_steps * every_n_steps if every_n_steps else row.epoch
    if older.epoch <= begin:
        return False
    batches_a_step = max(1.0, (older.batches or 0) / (older.epoch - begin))
    return not row.partial or older.epoch > row.epoch - int((row.batches or 0) / batches_a_step)


def _continues(row: EpochMetrics, older: EpochMetrics) -> bool:
    """Return whether a row's seconds begin where an older one's ended, which took more than rounding can hide."""
    total = row.cumulative_time_sec or 0.0
    gap = total - (row.epoch_time_sec or 0.0) - (older.cumulative_time_sec or 0.0)
    return abs(gap) <= 1e-12 * total < (older.epoch_time_sec or 0.0)


def keep_last_written(rows: Iterable[EpochMetrics], every_n_steps: int | None = None) -> list[EpochMetrics]:
    """Return one row per epoch, sorted by epoch: those that no later resume superseded.

    A run resumed at epoch k writes k again, later; every row from k on that was written before is then void, even where
    the second life ended earlier than the first. ``every_n_steps``: as for :func:`supersedes`.
    """
    kept: list[EpochMetrics] = []
    for row in sorted(rows, key=lambda r: r.logged_at_ms):
        while kept and supersedes(row, kept[-1], every_n_steps):
            kept.pop()
        kept.append(row)
    return kept


def whole_number(name: str, value: Any, least: int = 0) -> int:
    """Return a value of a training loop as an int; raise UsageError unless it is one from ``least`` to 2**53 - 1."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except Exception:  # noqa: BLE001 - a tensor of floats, of several elements, on the meta device, ...
        number = least - 1
    if not least <= number <= WHOLE_MAX:
        limit = "" if number < least else " and < 2**53"
        raise UsageError(f"{name} must be a whole number >= {least}{limit}, got {short_repr(value)}")
    return number
