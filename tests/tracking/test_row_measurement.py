"""Rows are opened, filled and written, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.tracking.epoch_meter import EpochMeter
from mlflow_ddpm.tracking.live_points import LiveMeter, LiveReading
from mlflow_ddpm.tracking.null_recorder import NullRecorder
from mlflow_ddpm.tracking.rank_sync import RankSync
from mlflow_ddpm.tracking.row_measurement import RowMeasurement
from mlflow_ddpm.tracking.shutdown import ShutdownHandler
from mlflow_ddpm.tracking.step_windows import StepWindows

if TYPE_CHECKING:
    from support.common import HandClock


class _Recorder(NullRecorder):
    """Keeps the rows, and the run's outcome, that it is given."""

    def __init__(self) -> None:
        self.written: list[EpochMetrics] = []
        self.outcome: RunOutcome | None = None

    def write(self, row: EpochMetrics) -> None:
        """Keep the row."""
        self.written.append(row)

    def close(self, outcome: RunOutcome, timeout: float) -> bool:  # noqa: ARG002
        """Keep the outcome."""
        self.outcome = outcome
        return True


def _rows(clock: HandClock, every: int | None, rank: int = 0) -> tuple[RowMeasurement, list[EpochMetrics]]:
    meter = EpochMeter("cpu", clock, 1, RankSync(Path("out"), reduces=False))
    rows, recorder = RowMeasurement(meter, StepWindows.create(every), rank, LiveMeter(0, 1)), _Recorder()
    rows.recorder = recorder
    return rows, recorder.written


def _values(loss: float) -> dict[str, Any]:
    return {"loss": loss, "lr": 0.1, "grad_norm": None, "batch_size": None}


def test_windows_end_by_themselves_and_the_last_is_kept(clock: HandClock) -> None:
    """Seven steps in windows of three."""
    rows, written = _rows(clock, 3)
    for step in range(7):
        rows.add_step(step, _values(float(step)), {})
    rows.close(has_finished=True)

    assert [(row.epoch, row.partial, row.loss_mean) for row in written] == [(3, 0, 1.0), (6, 0, 4.0), (7, 1, 6.0)]


def test_micro_batches_of_a_step_that_was_not_done_make_no_row(clock: HandClock) -> None:
    """They would replace the row of the window before, which bears the same number."""
    rows, written = _rows(clock, 2)
    for step in (0, 1):
        rows.add_step(step, _values(1.0), {})
    rows.add_step(None, _values(9.0), {})
    rows.close(has_finished=False)

    assert [(row.epoch, row.loss_mean) for row in written] == [(2, 1.0)]


def test_live_points_stand_at_the_steps_done_in_the_first_step_after_a_resume_too(
    clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batches come before its number is known."""
    rows, _ = _rows(clock, 10)
    readings: list[LiveReading] = []
    monkeypatch.setattr(rows.recorder, "write_live", readings.append)
    monkeypatch.setattr(rows.recorder, "next_epoch", 500)
    rows.live = LiveMeter(1e-9, 1)
    for step in (None, None, 500, None):
        rows.add_step(step, _values(1.0), {})

    assert [reading()[0].step for reading in readings] == [500, 500, 501, 501]


@pytest.mark.parametrize(("status", "expected"), [(None, "FAILED"), ("KILLED", "FAILED"), ("FINISHED", "FINISHED")])
def test_a_rank_that_failed_fails_the_run_unless_it_is_closed_as_finished_and_the_last_window_is_kept(
    status: str | None, expected: str, clock: HandClock, two_ranks: object
) -> None:
    """A launcher ends the ranks that are left by a signal, which a loop may report as KILLED."""
    peers = RankSync(Path("out"), reduces=True)
    rows = RowMeasurement(EpochMeter("cpu", clock, 2, peers), StepWindows.create(10), 0, LiveMeter(0, 2))
    rows.recorder, rows.shutdown = recorder, handler = _Recorder(), ShutdownHandler(rows.end)
    handler.start(with_signals=False)
    for step in range(3):
        rows.add_step(step, _values(float(step)), {})
    peers.publish_failure(1, RunOutcome("FAILED", "ValueError", "bad batch"))
    rows.end_as(status, None, 1.0)

    assert [(row.epoch, row.loss_mean) for row in recorder.written] == [(3, 1.0)]
    assert recorder.outcome is not None
    assert recorder.outcome.status == expected


def test_an_epoch_still_open_is_dropped_with_a_warning(clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    """A resume does it again."""
    rows, written = _rows(clock, None)
    rows.open_epoch(4, partial=False)
    rows.meter.add(_values(1.0), {}, is_untimed=False)
    rows.close(has_finished=True)

    assert written == []
    assert "epoch 4 was still open when the run ended: its 1 batch was dropped" in caplog.text


@pytest.mark.parametrize("epoch", [-1, 1.5, True, "0", 2**53])
def test_an_epoch_is_a_whole_number(clock: HandClock, epoch: object) -> None:
    """Of those that JSON readers still tell apart."""
    with pytest.raises(UsageError, match="epoch must be a whole number >= 0"):
        _rows(clock, None)[0].open_epoch(epoch, partial=False)


def test_another_rank_measures_nothing(clock: HandClock) -> None:
    """Its calls return at once."""
    rows, written = _rows(clock, 2, rank=1)
    for step in range(4):
        rows.add_step(step, _values(1.0), {})

    assert written == []
    assert rows.meter.batches is None
