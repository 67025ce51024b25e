"""The one table, and the rules for names and superseded rows."""

from __future__ import annotations

import math

import pytest

from mlflow_ddpm.core.extra_metrics import (
    PIPELINE_METRICS,
)
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics, keep_last_written

SPECIFIED = [
    *("loss_mean", "loss_std", "loss_min", "loss_max", "loss_median", "lr", "grad_norm"),
    *("samples_per_sec", "batches_per_sec", "gpu_allocated_mb", "gpu_reserved_mb", "gpu_peak_mb"),
    *("ema_delta_norm", "epoch_time_sec", "cumulative_time_sec"),
]


def test_the_table_has_every_specified_metric_by_its_name_and_in_order() -> None:
    """The specification's names bind to the letter."""
    names = [m.name for m in METRICS]

    assert ["epoch", *SPECIFIED, "nonfinite_batches", "skipped_steps", "batches", "partial"] == names


def test_every_metric_says_what_it_means() -> None:
    """Docs and report are derived from these sentences."""
    assert all(m.meaning.endswith(".") and m.label for m in (*METRICS, *PIPELINE_METRICS))


def test_points_leave_out_what_was_not_measured_and_keep_what_is_not_finite() -> None:
    """None is no point; NaN is one. The epoch is the step, not a point."""
    row = EpochMetrics(
        epoch=3, loss_mean=math.nan, lr=0.1, nonfinite_batches=2, extra={"fid": math.inf, "skipped": None}
    )

    points = {point.key: point.value for point in row.points()}

    assert {point.step for point in row.points()} == {3}
    assert points.keys() == {"loss_mean", "lr", "nonfinite_batches", "fid"}
    assert math.isnan(points["loss_mean"])
    assert points["fid"] == math.inf


def _rows(*written: tuple[int, int]) -> list[EpochMetrics]:
    return [EpochMetrics(epoch=epoch, logged_at_ms=ms) for epoch, ms in written]


def test_a_resume_voids_every_earlier_row_from_its_first_epoch_on() -> None:
    """The second life starts at 2 and ends at 3, before the first one had: epoch 4 of the first life is void, too."""
    first_life = [(0, 10), (1, 20), (2, 30), (3, 40), (4, 50)]
    second_life = [(2, 60), (3, 70)]

    kept = keep_last_written(_rows(*second_life, *first_life))

    assert [(0, 10), (1, 20), (2, 60), (3, 70)] == [(r.epoch, r.logged_at_ms) for r in kept]


@pytest.mark.parametrize(
    ("written", "kept"),  # number, steps, partial
    [
        ([(28, 28, 1), (30, 2, 1), (40, 10, 0), (66, 26, 1), (100, 34, 1)], [28, 30, 40, 66, 100]),
        ([(50, 50, 0), (66, 16, 1), (80, 14, 0), (100, 20, 0)], [50, 66, 80, 100]),
        ([(50, 50, 0), (66, 16, 1), (100, 50, 0)], [50, 100]),
        ([(50, 50, 0), (66, 16, 1), (100, 40, 1)], [50, 100]),
    ],
)
def test_a_part_of_a_window_stays_where_the_time_continues_it(
    written: list[tuple[int, int, int]], kept: list[int]
) -> None:
    """Lives before the last one had windows of other lengths. What was done again makes way."""
    rows = [
        EpochMetrics(
            epoch=number, batches=steps, partial=partial, epoch_time_sec=steps / 10, cumulative_time_sec=number / 10
        )
        for number, steps, partial in written
    ]

    assert [row.epoch for row in keep_last_written(rows, 50)] == kept


def test_a_missing_epoch_stays_missing() -> None:
    """Nothing invents a row."""
    assert [0, 2] == [r.epoch for r in keep_last_written(_rows((0, 1), (2, 3)))]
