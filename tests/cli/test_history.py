"""The table of ``mlflow-ddpm history``."""

from __future__ import annotations

import pytest

from mlflow_ddpm.analysis.frame import frame_from_rows
from mlflow_ddpm.cli.history import print_history
from mlflow_ddpm.core.formatting import NOT_MEASURED
from mlflow_ddpm.core.metrics import EpochMetrics

HISTORY = frame_from_rows(
    [
        EpochMetrics(epoch=0, loss_mean=0.7244983, lr=1e-3, logged_at_ms=1),
        EpochMetrics(epoch=11, loss_mean=float("nan"), lr=None, logged_at_ms=2),
    ]
)
COLUMNS = ["epoch", "loss_mean", "lr"]


def test_columns_are_aligned_and_not_measured_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    """Not finite is a word."""
    print_history(HISTORY, COLUMNS, None, all_columns=False)
    lines = capsys.readouterr().out.splitlines()

    assert ["epoch  loss_mean     lr", "    0    0.72450  0.001", f"   11        NaN      {NOT_MEASURED}"] == lines


def test_columns_that_have_no_room_are_named_instead(capsys: pytest.CaptureFixture[str]) -> None:
    """No line wraps, and no column disappears unnoticed."""
    print_history(HISTORY, COLUMNS, 18, all_columns=False)
    *table, rest = capsys.readouterr().out.splitlines()

    assert max(map(len, table)) <= 18
    assert rest.startswith("1 more column: lr; see them with --all")


@pytest.mark.parametrize("width", [5, 14, 18, 23, 80])
def test_all_columns_follow_in_tables_that_fit(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Each begins with the epoch, so that its rows can be read."""
    print_history(HISTORY, COLUMNS, width, all_columns=True)
    tables = [table.splitlines() for table in capsys.readouterr().out.split("\n\n")]

    assert [name for table in tables for name in table[0].split() if name != "epoch"] == ["loss_mean", "lr"]
    assert all(table[0].split()[0] == "epoch" for table in tables)
    assert width < 16 or all(len(line) <= width for table in tables for line in table)


def test_rows_of_a_run_in_steps_are_counted_in_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """The column's name in files stays ``epoch``."""
    print_history(HISTORY, COLUMNS, None, all_columns=False, counted="step")
    assert capsys.readouterr().out.split()[0] == "step"

    print_history(HISTORY[:0], COLUMNS, None, all_columns=False, counted="step")
    assert capsys.readouterr().out == "no steps yet\n"


def test_a_name_that_looks_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """An extra may be called anything that MLflow takes."""
    history = HISTORY.assign(**{"[bold] x :smile:": 1.0})
    print_history(history, ["epoch", "[bold] x :smile:"], None, all_columns=False)

    assert "[bold] x :smile:" in capsys.readouterr().out
