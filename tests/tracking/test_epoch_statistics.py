"""Statistics of an epoch: exact in float64, over finite values, with a count of the others."""

from __future__ import annotations

import math
import statistics as std
from fractions import Fraction
from typing import Any

import pytest
import torch

from mlflow_ddpm.tracking.batch_values import BatchValues
from mlflow_ddpm.tracking.epoch_statistics import nonfinite_batches, statistics


def _read(losses: list[Any], **others: Any) -> Any:
    values = BatchValues()
    for loss in losses:
        values.add(loss, others.get("lr"), others.get("grad_norm"), others.get("batch_size"))
    return values.read()


def test_statistics_match_the_standard_library_in_float64() -> None:
    """Mean, population standard deviation, extremes, and the midpoint median of an even count."""
    losses = [0.1 * k * k - 3 for k in range(10)]

    stats = statistics(_read(losses))

    assert stats.loss_mean == pytest.approx(float(sum(map(Fraction, losses)) / 10), rel=1e-15)
    assert stats.loss_std == pytest.approx(std.pstdev(losses), rel=1e-14)
    assert (stats.loss_min, stats.loss_max) == (min(losses), max(losses))
    assert stats.loss_median == std.median(losses)


def test_a_small_spread_around_a_large_mean_survives() -> None:
    """Mean of squares less square of mean would give zero here, or worse."""
    stats = statistics(_read([1e9 + 1, 1e9 + 2, 1e9 + 3]))

    assert stats.loss_std == pytest.approx(math.sqrt(2 / 3), rel=1e-12)


def test_non_finite_batches_are_counted_and_do_not_hide_the_others() -> None:
    """A batch counts once, whether loss, gradient norm or both are not finite."""
    values = BatchValues()
    losses, norms = [1.0, math.nan, 3.0, 5.0, math.inf], [1.0, 2.0, math.inf, 3.0, math.nan]
    for loss, norm in zip(losses, norms, strict=True):
        values.add(loss, 0.1, norm, 4)

    stats = statistics(values.read())

    assert (stats.loss_mean, stats.loss_max) == (3.0, 5.0)
    assert stats.grad_norm == 2.0
    assert stats.nonfinite_batches == 3
    assert nonfinite_batches(values.read()) == [1, 2, 4]


def test_an_epoch_without_a_finite_batch_has_nan_and_one_without_batches_has_nothing() -> None:
    """Measured and not finite is not the same as not measured."""
    all_bad = statistics(_read([math.nan, math.inf]))
    empty = statistics(_read([]))

    assert all_bad.loss_mean is not None
    assert math.isnan(all_bad.loss_mean)
    assert all_bad.nonfinite_batches == 2
    assert (empty.loss_mean, empty.loss_std, empty.grad_norm, empty.nonfinite_batches) == (None, None, None, 0)


@pytest.mark.parametrize(
    "losses",
    [
        [1e308, -1e308, 1e308, -1e308],
        [1.5e308, 1.6e308],
        [1e200, 2e200, 4e200],
        [1e-200, 2e-200, 4e-200],
        [1e-300, 3e-300],
        [-1.7e308, 1.7e308],
        [0.0, 0.0],
        [-0.0],
    ],
)
def test_no_statistic_overflows_or_vanishes_where_its_value_is_a_float(losses: list[float]) -> None:
    """Sums and squares may lie outside float64 while mean and deviation lie inside."""
    stats = statistics(_read(losses, grad_norm=1.0))
    exact = [Fraction(loss) for loss in losses]
    mean = sum(exact) / len(exact)
    variance = sum((loss - mean) ** 2 for loss in exact) / len(exact)

    assert stats.loss_mean == pytest.approx(float(mean), rel=1e-12)
    assert float(Fraction(stats.loss_std or 0) ** 2 / variance if variance else 1) == pytest.approx(1, rel=1e-9)
    assert (stats.loss_min, stats.loss_max) == (min(losses), max(losses))
    assert math.copysign(1, stats.loss_min or 0) == (1 if min(losses) >= 0 else -1)


def test_a_thousand_half_precision_losses_do_not_overflow() -> None:
    """Their sum, 6e7, is far beyond float16."""
    assert statistics(_read([torch.tensor(60000.0, dtype=torch.float16)] * 1000)).loss_mean == 60000.0


def test_a_finite_loss_with_an_infinite_norm_is_a_skipped_step() -> None:
    """GradScaler makes such steps on purpose; a batch whose loss is not finite is none of them."""
    values = BatchValues()
    for loss, norm in ((1.0, math.inf), (2.0, math.nan), (math.nan, math.inf), (3.0, 1.0), (4.0, None)):
        values.add(loss, 0.1, norm, None)

    stats = statistics(values.read())

    assert (stats.nonfinite_batches, stats.skipped_steps, stats.loss_mean) == (3, 2, 2.5)
