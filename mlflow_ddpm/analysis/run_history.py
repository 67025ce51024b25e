"""A run read back: its rows and everything known of the run. Everything downstream of reading takes one of these."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from mlflow_ddpm.analysis.frame import EVERY_N_STEPS, RESUMED, frame_from_rows, rows_from_frame
from mlflow_ddpm.core.formatting import format_epochs, in_steps
from mlflow_ddpm.core.metrics import EpochMetrics, keep_last_written
from mlflow_ddpm.core.redaction import redacted
from mlflow_ddpm.core.run_summary import Summary, summarise

if TYPE_CHECKING:
    import pandas as pd

Points = list[tuple[int, float]]  # (epoch, value)
_RUN_ID = re.compile(r"[A-Za-z0-9][\w\-]{0,63}", re.ASCII)  # MLflow's own are 32 hexadecimal digits


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """The rows of one run, and what is known of the run beside them. Build it with :meth:`create`.

    Attributes:
        rows: one row per epoch, sorted by epoch: those that no later resume superseded.
        run: id, name, experiment, status and times (Unix ms) of the run; empty where they are not known.
        config: hyperparameters.
        environment: software and hardware of the run.
    """

    rows: tuple[EpochMetrics, ...]
    run: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        rows: Iterable[EpochMetrics],
        *,
        run: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return the history of rows as they were written, superseded ones included.

        What is known of the run may come from another program, so credentials are taken out of it here.
        """
        run, config, environment = (redacted(part or {}).value for part in (run, config, environment))
        kept = tuple(keep_last_written(rows, run.get(EVERY_N_STEPS)))
        return cls(rows=kept, run=run, config=config, environment=environment)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        """Return the history of a user's frame. Raises as :func:`mlflow_ddpm.analysis.frame.rows_from_frame`.

        Of what a program left in ``frame.attrs`` under our names, only whole numbers count.
        """
        resumed, steps = frame.attrs.get(RESUMED), frame.attrs.get(EVERY_N_STEPS)
        run: dict[str, Any] = {EVERY_N_STEPS: steps} if type(steps) is int and steps > 0 else {}
        if isinstance(resumed, list | tuple) and resumed and all(type(epoch) is int for epoch in resumed):
            run[RESUMED] = list(resumed)
        return cls(rows=tuple(rows_from_frame(frame)), run=run)

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow; None where it is not known, or is no id."""
        run_id = self.run.get("run_id")
        return run_id if isinstance(run_id, str) and _RUN_ID.fullmatch(run_id) else None

    @property
    def resumed_at_epochs(self) -> tuple[int, ...]:
        """The first epoch after each resume."""
        epochs = self.run.get(RESUMED)
        return tuple(e for e in epochs if type(e) is int) if isinstance(epochs, list | tuple) else ()

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The rows as a DataFrame: see :mod:`mlflow_ddpm.analysis.frame`."""
        frame = frame_from_rows(self.rows, resumed_at_epochs=self.resumed_at_epochs)
        if self.run.get(EVERY_N_STEPS):
            frame.attrs[EVERY_N_STEPS] = self.run[EVERY_N_STEPS]
        return frame

    @cached_property
    def summary(self) -> Summary:
        """The rows folded into a handful of numbers."""
        return summarise(self.rows, self.run)

    @cached_property
    def extra_names(self) -> tuple[str, ...]:
        """The names of the extras, sorted."""
        return tuple(sorted({name for row in self.rows for name in row.extra}))

    @property
    def axis_label(self) -> str:
        """What the numbers of the rows count, as an axis names it: ``Epoch``, or ``Step`` for windows of steps."""
        return "Step" if self.run.get(EVERY_N_STEPS) else "Epoch"

    def points(self, name: str) -> Points:
        """Return epoch and value where a metric or extra is finite."""
        values = ((row.epoch, row.value(name)) for row in self.rows)
        return [(epoch, float(value)) for epoch, value in values if value is not None and math.isfinite(value)]

    def nonfinite_epochs(self, name: str) -> list[int]:
        """Return the epochs in which a metric or extra was measured and is not finite."""
        values = ((row.epoch, row.value(name)) for row in self.rows)
        return [epoch for epoch, value in values if value is not None and not math.isfinite(value)]

    def worded(self, text: str) -> str:
        """Return a text of this package on epochs as it reads for this run, whose rows may be windows of steps."""
        return in_steps(text) if self.axis_label == "Step" else text

    def format_epochs(self, epochs: Iterable[int]) -> str:
        """Return numbers of rows as ranges, of rows that follow each other."""
        return format_epochs(epochs, self.row_length)

    @property
    def row_length(self) -> float:
        """What the number of a row grows by: 1, an epoch, or the steps of a window."""
        return self.spacing if self.axis_label == "Step" else 1.0

    @cached_property
    def spacing(self) -> float:
        """The usual distance between two rows: the lower median of their distances; 1 where two epochs are all.

        A loop may log every fifth epoch, or every thousandth step; rows further apart than this have a gap between.
        """
        distances = sorted(b.epoch - a.epoch for a, b in pairwise(self.rows))
        if not distances or (len(distances) == 1 and self.axis_label == "Epoch"):
            return 1.0
        return float(distances[(len(distances) - 1) // 2])
