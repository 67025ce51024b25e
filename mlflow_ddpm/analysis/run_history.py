"""A run read back: its rows and everything known of the run. Everything downstream of reading takes one of these."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from mlflow_ddpm.analysis.frame import RESUMED, frame_from_rows, rows_from_frame
from mlflow_ddpm.core.metrics import EpochMetrics, keep_last_written

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["RunHistory"]

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """The rows of one run, and what is known of the run beside them. Build it with :meth:`create`.

    Attributes:
        rows: one row per epoch, sorted by epoch: those that no later resume superseded.
        run: id, name, experiment, status and times (Unix ms) of the run; empty where they are not known.
        config: hyperparameters, redacted.
        environment: software and hardware of the run.
    """

    rows: tuple[EpochMetrics, ...]
    run: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    config: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)
    environment: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)

    @classmethod
    def create(
        cls,
        rows: Iterable[EpochMetrics],
        *,
        run: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the history of rows as they were written, superseded ones included."""
        kept = tuple(keep_last_written(rows))
        return cls(rows=kept, run=run or _EMPTY, config=config or _EMPTY, environment=environment or _EMPTY)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        """Return the history of a frame as :func:`mlflow_ddpm.read_history` returns it."""
        return cls.create(rows_from_frame(frame), run={"resumed_at_epochs": list(frame.attrs.get(RESUMED, ()))})

    @property
    def resumed_at_epochs(self) -> tuple[int, ...]:
        """The first epoch after each resume."""
        return tuple(self.run.get("resumed_at_epochs") or ())

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as a DataFrame: see :mod:`mlflow_ddpm.analysis.frame`."""
        return frame_from_rows(self.rows, resumed_at_epochs=self.resumed_at_epochs)

    @property
    def axis_label(self) -> str:
        """What the numbers of the rows count, as an axis names it."""
        return "Epoch"

    @cached_property
    def spacing(self) -> float:
        """The usual distance between two rows: the lower median of their distances; 1 where two epochs are all.

        A loop may log every fifth epoch, or every thousandth step; rows further apart than this have a gap between.
        """
        distances = sorted(b.epoch - a.epoch for a, b in pairwise(self.rows))
        if not distances or (len(distances) == 1 and self.axis_label == "Epoch"):
            return 1.0
        return float(distances[(len(distances) - 1) // 2])
