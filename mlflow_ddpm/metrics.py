"""One epoch's measurements, and the table that names them.

A metric is declared here as one dataclass field with its label, unit and meaning. CSV columns, JSON keys, MLflow keys,
axis labels, report columns and the README's table are derived from :data:`METRICS`; nothing else spells a metric's name
to declare it. Extras that the included pipeline records are described in :data:`PIPELINE_METRICS`. This module reads no
clock, touches no file and imports nothing heavy.

Three kinds of "no number" stay apart: *not measured* is ``None``; *measured and not finite* is a float NaN or infinity;
*no such epoch* is the absence of a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple

from mlflow_ddpm.errors import UsageError

__all__ = [
    "INSIGHT",
    "METRICS",
    "PIPELINE_METRICS",
    "EpochMetrics",
    "Metric",
    "axis_label",
    "check_extra_names",
    "keep_last_written",
    "metric",
]

Number = int | float | None


class Metric(NamedTuple):
    """What the table says of one metric."""

    name: str  # CSV column, JSON key and MLflow key
    label: str  # for axes and report columns, without unit
    unit: str  # "" where there is none
    category: str
    meaning: str
    integral: bool = False


def _about(label: str, unit: str, category: str, meaning: str, *, integral: bool = False) -> dict[str, Any]:
    return {"label": label, "unit": unit, "category": category, "meaning": meaning, "integral": integral}


def _metric(*about: str, integral: bool = False) -> Any:
    return field(default=None, metadata=_about(*about, integral=integral))


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochMetrics:
    """One row: everything that was measured in one epoch. ``None`` means not measured."""

    epoch: int = field(
        metadata=_about("Epoch", "", "Epoch", "The number given to `start_epoch`; the MLflow step.", integral=True)
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
        "Mean over batches of the global L2 norm of all gradients, before clipping.",
    )
    samples_per_sec: float | None = _metric(
        "Throughput", "samples/s", "Throughput", "Samples of all ranks over `epoch_time_sec`."
    )
    batches_per_sec: float | None = _metric(
        "Batch rate", "batches/s", "Throughput", "Batches of rank 0 over `epoch_time_sec`."
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
        "EMA distance", "", "EMA", "Global L2 distance between live parameters and their EMA shadow."
    )
    epoch_time_sec: float | None = _metric(
        "Epoch time",
        "s",
        "Timing",
        "From `start_epoch` to the entry of `end_epoch`, queued device work included.",
    )
    cumulative_time_sec: float | None = _metric(
        "Cumulative time",
        "s",
        "Timing",
        "Sum of `epoch_time_sec` over the run, epochs before a resume included.",
    )
    nonfinite_batches: int | None = _metric(
        "Non-finite batches",
        "batches",
        "Loss",
        "Batches whose loss or gradient norm was NaN or infinite; the statistics leave those values out.",
        integral=True,
    )
    # What follows are not metrics of the table: the caller's own scalars, and when the row was written.
    extra: Mapping[str, float | None] = field(default_factory=lambda: MappingProxyType({}))
    logged_at_ms: int = 0  # Unix time; the timestamp of the row's MLflow points, kept when they are sent again

    def values(self) -> dict[str, Number]:
        """Return the table's metrics in order, then the extras by name; ``epoch`` comes first."""
        row: dict[str, Number] = {m.name: getattr(self, m.name) for m in METRICS}
        row.update((name, self.extra[name]) for name in sorted(self.extra))
        return row

    def points(self) -> dict[str, float]:
        """Return what the tracking store gets at step ``epoch``: every measured value, as float."""
        return {k: float(v) for k, v in self.values().items() if v is not None and k != "epoch"}


METRICS: tuple[Metric, ...] = tuple(Metric(name=f.name, **f.metadata) for f in fields(EpochMetrics) if f.metadata)

# The extras that ``mlflow-ddpm train`` records, the judgement of samples first. Any loop may record its own.
_QUALITY, INSIGHT = "Sample Quality", "Insight"
PIPELINE_METRICS: tuple[Metric, ...] = (
    Metric(
        "sample_accuracy",
        "Sample accuracy, guidance 2",
        "",
        _QUALITY,
        "Share of samples at guidance 2, as many of each class, that a classifier names as the class asked for.",
    ),
    Metric(
        "sample_accuracy_g1",
        "Sample accuracy, guidance 1",
        "",
        _QUALITY,
        "Share of samples at guidance 1, which is plain sampling, that the classifier names as the class asked for.",
    ),
    Metric(
        "judge_accuracy",
        "Classifier accuracy",
        "",
        _QUALITY,
        "Share of real held-out images that the classifier names as their class.",
    ),
    Metric(
        "sample_frechet",
        "Sample Fréchet distance, guidance 2",
        "",
        _QUALITY,
        "Squared Fréchet distance of samples at guidance 2 from real images, in the classifier's feature space.",
    ),
    Metric(
        "sample_frechet_g1",
        "Sample Fréchet distance, guidance 1",
        "",
        _QUALITY,
        "Squared Fréchet distance of samples at guidance 1 from real images, in the classifier's feature space.",
    ),
    Metric(
        "real_frechet",
        "Fréchet distance of real halves",
        "",
        _QUALITY,
        "Squared Fréchet distance of two halves of real images, each as many as the samples: what a perfect model has.",
    ),
    *(
        Metric(
            f"loss_t_q{quarter}",
            f"Loss, timestep quartile {quarter}",
            "",
            INSIGHT,
            f"Mean loss of the images whose timestep lay in the {where} quarter, over all ranks.",
        )
        for quarter, where in enumerate(("first, least noisy", "second", "third", "last, noisiest"), start=1)
    ),
    *(
        Metric(
            f"grad_norm_{part}",
            f"Gradient norm, {part}",
            "",
            INSIGHT,
            f"Mean over batches of the L2 norm of the gradients of {what}, before clipping.",
        )
        for part, what in (
            ("embedding", "the timestep's and the class's embeddings"),
            ("encoder", "the stem and the way down"),
            ("middle", "the stages at the lowest resolution between both ways"),
            ("decoder", "the way up and the head"),
        )
    ),
    Metric(
        "update_to_weight",
        "Update to weight",
        "",
        INSIGHT,
        "L2 norm of the epoch's last step over that of all weights before it; near 1e-3 in mid-training is usual.",
    ),
    Metric(
        "data_sec",
        "Data time",
        "s",
        INSIGHT,
        "Seconds of `epoch_time_sec` that rank 0's host spent fetching batches and drawing their noise.",
    ),
    Metric(
        "maintenance_sec",
        "Maintenance time",
        "s",
        INSIGHT,
        "Seconds beside `epoch_time_sec`: this epoch's grid and judgement, and the checkpoint written before it.",
    ),
)

_BY_NAME = {m.name: m for m in METRICS}
_KNOWN = _BY_NAME | {m.name: m for m in PIPELINE_METRICS}


def metric(name: str) -> Metric:
    """Return the entry of a name in either table; any other name, an extra of somebody's own, is its own label."""
    return _KNOWN.get(name) or Metric(name, name, "", "Extra", "Recorded by the training loop.")


def axis_label(name: str) -> str:
    """Return ``"Label (unit)"``, or the label alone where there is no unit."""
    m = metric(name)
    return f"{m.label} ({m.unit})" if m.unit else m.label


# What MLflow's own validation admits (mlflow/utils/validation.py), less "." and ".." as path parts: the file store
# makes folders of the parts. Commas, quotes and line breaks are out, so a name needs no quoting in a CSV header.
_KEY = re.compile(r"[\w\-. :]+(/[\w\-. :]+)*")
_KEY_MAX = 250
_RESERVED = frozenset(_BY_NAME) | {"logged_at_ms"}


def check_extra_names(names: Iterable[str]) -> None:
    """Check names for extra metrics, all at once.

    Raises:
        UsageError: a name that MLflow would refuse, that the table already uses, or that starts with ``system/``; or
            two names of which one is a folder of the other (``a`` and ``a/b``), which a file store cannot hold.
    """
    names = list(names)
    for name in names:
        if not isinstance(name, str):
            raise UsageError(f"extra metric names must be strings, got {name!r}")
        parts = name.split("/")
        if len(name) > _KEY_MAX or not _KEY.fullmatch(name) or {".", ".."} & set(parts):
            raise UsageError(
                f"MLflow would refuse the metric name {name!r}: use letters, digits and _ - . : / or space, "
                f"no empty part between slashes, {_KEY_MAX} characters at most"
            )
        if name in _RESERVED or parts[0] == "system":
            raise UsageError(f"the metric name {name!r} is taken; choose another, such as {'my_' + parts[-1]!r}")
    folders = {n.rsplit("/", i)[0] for n in names for i in range(1, n.count("/") + 1)}
    clash = sorted((folders & set(names)) | (folders & _RESERVED))
    if clash:
        raise UsageError(
            f"{clash[0]!r} cannot be both a metric and a folder of metrics; a file store holds only one. Rename either"
        )


def keep_last_written(rows: Iterable[EpochMetrics]) -> list[EpochMetrics]:
    """Return one row per epoch, sorted by epoch: those that no later resume superseded.

    A run resumed at epoch k writes k again, later; every row from k on that was written before is then void, even where
    the second life ended earlier than the first.
    """
    kept: list[EpochMetrics] = []
    for row in sorted(rows, key=lambda r: r.logged_at_ms):
        while kept and kept[-1].epoch >= row.epoch:
            kept.pop()
        kept.append(row)
    return kept


def _check_table() -> None:
    bad = [m.name for m in (*METRICS, *PIPELINE_METRICS) if not _KEY.fullmatch(m.name)]
    if bad:
        raise UsageError(f"MLflow would refuse these metric names: {bad}")


_check_table()
