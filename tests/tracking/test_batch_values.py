"""Batch values: kept on their device, read once, and turned into the right statistics."""

from __future__ import annotations

import math
import statistics as std
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking.batch_values import BatchValues
from mlflow_ddpm.tracking.epoch_statistics import nonfinite_batches, statistics


class Unreadable(torch.Tensor):
    """A tensor that fails the test when the host reads its value, unless that is allowed."""

    allowed = False

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        reads = ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "__int__", "__format__", "__repr__")
        if func.__name__ in reads and not cls.allowed:
            raise AssertionError(f"the device was read: {func.__name__}")
        return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_tensors_give_the_same_numbers_as_their_floats(dtype: torch.dtype) -> None:
    """Whatever the precision, no further bit is lost."""
    tensors = [torch.tensor(0.1 * k, dtype=dtype) for k in range(7)]

    assert [float(t) for t in tensors] == list(_read(list(tensors)).losses)


def test_floats_and_tensors_of_several_precisions_keep_their_order() -> None:
    """The order tells which batch was not finite."""
    mixed = [1.0, torch.tensor(2.0), torch.tensor(3.0, dtype=torch.bfloat16), 4.0, torch.tensor([5.0]), np.float32(6)]

    assert [1.0, 2.0, 3.0, 4.0, 5.0, 6.0] == list(_read(mixed).losses)


def test_no_tensor_is_read_before_the_epoch_ends() -> None:
    """Thousands of batches, folds included, never wait for the device."""
    values = BatchValues()
    Unreadable.allowed = False
    for k in range(3000):
        loss = torch.tensor(float(k)).as_subclass(Unreadable)
        values.add(loss, 0.1, loss, 8)

    Unreadable.allowed = True
    assert list(values.read().losses) == [float(k) for k in range(3000)]


def test_a_loss_lets_go_of_its_graph() -> None:
    """Keeping a loss with its graph would keep every activation of the epoch."""
    weight = torch.ones(3, requires_grad=True)
    values = BatchValues()
    values.add((weight * 2).sum(), None, None, None)

    kept = values._loss.tail[0]

    assert kept.grad_fn is None
    assert kept.requires_grad is False


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


def test_gradient_norms_may_be_given_for_some_batches_only() -> None:
    """Their mean is over those batches, and a bad one is charged to its own batch."""
    values = BatchValues()
    for norm in (None, 2.0, None, math.nan, 4.0):
        values.add(1.0, 0.1, norm, None)

    stats = statistics(values.read())

    assert stats.grad_norm == 3.0
    assert nonfinite_batches(values.read()) == [3]


def test_samples_count_only_if_every_batch_tells_its_size() -> None:
    """A throughput from half the batches would be a lie."""
    whole, half = BatchValues(), BatchValues()
    for size in (64, 64, 5):
        whole.add(1.0, None, None, size)
    for maybe in (64, None):
        half.add(1.0, None, None, maybe)

    assert whole.read().samples == 133
    assert half.read().samples is None


def test_the_learning_rate_is_that_of_the_last_batch() -> None:
    """A schedule moves within the epoch."""
    values = BatchValues()
    for lr in (0.1, 0.2, torch.tensor(0.25)):
        values.add(1.0, lr, None, None)

    assert values.read().lr == 0.25


@pytest.mark.parametrize("wrong", ["0.5", None, [1.0], torch.ones(2), object()])
def test_what_is_no_single_number_is_refused_at_once(wrong: Any) -> None:
    """The message names the argument."""
    with pytest.raises(UsageError, match="loss must be"):
        BatchValues().add(wrong, None, None, None)


def test_a_million_batches_stay_small() -> None:
    """Folded numbers take 8 bytes; a million Python floats and tensors would take hundreds of megabytes."""
    values = BatchValues()
    for k in range(50_000):
        values.add(k * 1e-6, 0.1, k * 2e-6, 64)

    folded = sum(part.itemsize * len(part) for part in values._loss._folded)

    assert len(values._loss.tail) < 1024
    assert folded <= 8 * 50_000


def test_a_learning_rate_tensor_counts_as_it_was_when_it_was_logged() -> None:
    """PyTorch's schedulers change an optimizer's learning rate in place where it is a tensor."""
    lr = torch.tensor(0.1)
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight], lr=lr, capturable=False, foreach=False)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    values = BatchValues()

    values.add(1.0, optimizer.param_groups[0]["lr"], None, None)
    weight.sum().backward()
    optimizer.step()
    scheduler.step()

    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)
    assert values.read().lr == pytest.approx(0.1)
