"""The table of ``mlflow-ddpm history``."""

from __future__ import annotations

from mlflow_ddpm.analysis.frame import frame_from_rows
from mlflow_ddpm.cli.history_table import terminal_table
from mlflow_ddpm.core.formatting import NOT_MEASURED
from mlflow_ddpm.core.metrics import EpochMetrics

HISTORY = frame_from_rows(
    [
        EpochMetrics(epoch=0, loss_mean=0.7244983, lr=1e-3, logged_at_ms=1),
        EpochMetrics(epoch=11, loss_mean=float("nan"), lr=None, logged_at_ms=2),
    ]
)


def test_columns_are_aligned_and_not_measured_is_a_dash() -> None:
    """Not finite is a word."""
    lines = terminal_table(HISTORY, ["epoch", "loss_mean", "lr"], None).splitlines()

    assert ["epoch  loss_mean     lr", "    0    0.72450  0.001", f"   11        NaN      {NOT_MEASURED}"] == lines


def test_columns_that_have_no_room_are_named_instead() -> None:
    """No line wraps, and nothing disappears without a word."""
    *table, rest = terminal_table(HISTORY, ["epoch", "loss_mean", "lr"], 18).splitlines()

    assert max(map(len, table)) <= 18
    assert rest.startswith("1 more columns: lr; choose with --columns")
