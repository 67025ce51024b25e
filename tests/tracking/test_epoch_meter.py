"""One epoch or window is measured: its statistics, its time, and two warnings, once each."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.tracking.epoch_meter import EpochMeter
from mlflow_ddpm.tracking.rank_sync import RankSync

if TYPE_CHECKING:
    import pytest
    from support.common import HandClock


def _meter(clock: HandClock, world_size: int = 1) -> EpochMeter:
    meter = EpochMeter("cpu", clock, world_size, RankSync(Path("out"), reduces=False))
    meter.open()
    return meter


def _add(meter: EpochMeter, loss: object, *, is_untimed: bool = False) -> None:
    values = {"loss": loss, "lr": 0.1, "grad_norm": 1.0, "batch_size": torch.tensor(4)}
    meter.add(values, {"w": 2.0}, is_untimed=is_untimed)


def test_rates_count_what_came_after_the_clock_started(clock: HandClock) -> None:
    """A first step that was over when the clock started counts as a batch, not in the rates; ranks count alike."""
    meter = _meter(clock, world_size=2)
    _add(meter, 1.0, is_untimed=True)
    _add(meter, 3.0)
    clock.seconds += 2.0
    measured = meter.read()

    assert measured.fields["loss_mean"] == 2.0
    assert measured.fields["batches"] == 2
    assert measured.fields["batches_per_sec"] == 0.5
    assert repr(measured.fields["samples_per_sec"]) == "4.0"  # no tensor, though the sizes are
    assert measured.fields["epoch_time_sec"] == 2.0
    assert measured.extras == {"w": 2.0}


def test_values_that_are_not_finite_are_warned_about_once(clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    """With the number of the row and the first batch; steps that were skipped before, as is normal, hide no fault."""
    meter = _meter(clock)
    _add(meter, 1.0)
    _add(meter, float("nan"))
    rows = [EpochMetrics(epoch=e, nonfinite_batches=1, skipped_steps=e < 2) for e in range(4)]
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        for row in [*rows, rows[0]]:
            meter.warn_of_nonfinite(row, meter.read().batches)

    assert [record.getMessage()[:66] for record in caplog.records] == [
        "the gradient norm (not the loss) was not finite in 1 batch of epoc",
        "the loss or gradient norm was not finite in 1 batch of epoch 2, fi",
    ]
    ends = [record.getMessage().rpartition("; ")[2] for record in caplog.records]
    assert ends == ["further skipped steps are not logged", "further cases are not logged"]


def test_a_loss_changed_in_place_is_warned_about_once(clock: HandClock, caplog: pytest.LogCaptureFixture) -> None:
    """The remedy is named."""
    meter, total = _meter(clock), torch.zeros(())
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        for _ in range(4):
            total += 1
            _add(meter, total)
        meter.read()
        meter.read()

    assert [record.getMessage()[:64] for record in caplog.records] == [
        "a loss was changed in place after it was logged, so a later valu"
    ]
