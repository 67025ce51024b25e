"""Stands in the place of a RunRecorder on ranks other than 0: every method returns at once, nothing is written.

It has a file of its own so that those ranks never import what writes to disk or to MLflow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mlflow_ddpm.analysis.findings.rules import Finding
    from mlflow_ddpm.core.metrics import EpochMetrics
    from mlflow_ddpm.core.run_outcome import RunOutcome
    from mlflow_ddpm.tracking.live_points import LiveReading


class Recorder(Protocol):
    """What a tracker needs of a recorder."""

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id."""

    @property
    def tracking_uri(self) -> str | None:
        """The tracking store."""

    @property
    def next_epoch(self) -> int:
        """The first epoch without a row."""

    @property
    def rows(self) -> Sequence[EpochMetrics]:
        """The rows so far, one an epoch."""

    def require_open(self, method: str) -> None:
        """Raise UsageError if the run was closed."""

    def write(self, row: EpochMetrics) -> None:
        """Record a row."""

    def write_live(self, reading: LiveReading) -> None:
        """Record values within an epoch."""

    def on_finding(self, callback: Callable[[Finding], object]) -> None:
        """Call back for each new finding."""

    @property
    def has_all_rows(self) -> bool:
        """Whether MLflow has every row."""

    def write_image(self, name: str, image: NDArray[np.uint8], epoch: int) -> Path | None:
        """Record a picture."""

    def write_artifact(self, path: Path) -> None:
        """Record a file."""

    def next_timestamp(self) -> int:
        """Return the time for a new row."""

    def seconds_before(self, epoch: int) -> float:
        """Return the run's seconds up to an epoch."""

    def flush(self, timeout: float) -> bool:
        """Return whether MLflow has everything."""

    def close(self, outcome: RunOutcome, timeout: float) -> bool:
        """End the run."""


class NullRecorder:
    """Records nothing."""

    run_id: str | None = None
    tracking_uri: str | None = None
    next_epoch = 0
    has_all_rows = True
    rows: Sequence[EpochMetrics] = ()

    def require_open(self, method: str) -> None:
        """There is nothing to be closed."""

    def write(self, row: EpochMetrics) -> None:
        """Record nothing."""

    def write_live(self, reading: LiveReading) -> None:
        """Record nothing."""

    def on_finding(self, callback: Callable[[Finding], object]) -> None:
        """Find nothing."""

    def write_image(self, name: str, image: NDArray[np.uint8], epoch: int) -> Path | None:
        """Record nothing."""

    def write_artifact(self, path: Path) -> None:
        """Record nothing."""

    def next_timestamp(self) -> int:
        """Return 0: no row is recorded."""
        return 0

    def seconds_before(self, epoch: int) -> float:  # noqa: ARG002
        """Return 0: no row is recorded."""
        return 0.0

    def flush(self, timeout: float) -> bool:  # noqa: ARG002
        """Return True: there is nothing to send."""
        return True

    def close(self, outcome: RunOutcome, timeout: float) -> bool:  # noqa: ARG002
        """Return True: there is nothing to send."""
        return True
