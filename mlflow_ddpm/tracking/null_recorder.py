"""Stands in the place of a RunRecorder on ranks other than 0, so that the tracker asks nowhere whether it has one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from mlflow_ddpm.analysis.findings.rules import Finding
    from mlflow_ddpm.core.metrics import EpochMetrics
    from mlflow_ddpm.core.run_summary import RunOutcome
    from mlflow_ddpm.tracking.live_points import LiveReading
    from mlflow_ddpm.tracking.run_recorder import RunRecorder

Recorder: TypeAlias = "RunRecorder | NullRecorder"


class NullRecorder:
    """Has the methods of a RunRecorder; each returns at once, and nothing is written or sent."""

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

    def seconds_through(self, number: int) -> float:  # noqa: ARG002
        """Return 0: no row is recorded."""
        return 0.0

    def flush(self, timeout: float) -> bool:  # noqa: ARG002
        """Return True: there is nothing to send."""
        return True

    def close(self, outcome: RunOutcome, timeout: float) -> bool:  # noqa: ARG002
        """Return True: there is nothing to send."""
        return True
