"""Batch values: kept on their device, read once, and turned into the right statistics."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking.batch_values import BatchValues, new_by_kind
from mlflow_ddpm.tracking.epoch_statistics import nonfinite_batches, statistics
from mlflow_ddpm.tracking.scalars import extra_values


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


def test_there_may_be_more_values_of_a_further_scalar_than_batches() -> None:
    """Evaluations between the batches add to it; none is lost when its first values are folded."""
    values = BatchValues()
    values.add(1.0, None, None, None)
    for number in range(1500):
        values.add_extras({"x": float(number)})

    assert list(values.read().extras["x"]) == list(range(1500))


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

    folded = sum(chunk.values.itemsize * len(chunk.values) for chunk in values._loss.all_chunks())

    assert folded <= 8 * 50_000


@pytest.mark.parametrize(
    "dtypes", [[None], [torch.float32], [None, torch.float32], [torch.bfloat16, None, torch.float64]]
)
def test_kinds_that_alternate_are_folded_each_into_one(dtypes: list[torch.dtype | None]) -> None:
    """Floats (None) and tensors keep their order, and a live point has only what is new, folded meanwhile or not."""
    values, numbers = BatchValues(), [float(k % 250) for k in range(3000)]
    for k, number in enumerate(numbers):
        dtype = dtypes[k % len(dtypes)]
        values.add(torch.tensor(number, dtype=dtype) if dtype else number, None, None, None)
        if k == 1499:
            half = values.so_far()[0]
    whole = values.so_far()[0]

    for extent, start, expected in ((half, 0, numbers[:1500]), (whole, 1500, numbers[1500:]), (whole, 3000, [])):
        kinds, end = new_by_kind(extent, start)
        new = [torch.as_tensor(part).reshape(-1).double() for parts in kinds.values() for part in parts]
        assert sorted(torch.cat([*new, torch.empty(0)]).tolist()) == sorted(expected)
        assert end == start + len(expected)
    assert len(values._loss.all_chunks()) == 3 * len(dtypes)
    assert list(values.read().losses) == numbers


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 2048])
def test_the_newest_norm_is_at_hand_after_batches_without_one(count: int) -> None:
    """A live point asks its device for an event."""
    values = BatchValues()
    for k in range(count):
        values.add(0.0, None, float(k), None)
    values.add(0.0, None, None, None)

    assert values.so_far()[1][1][-1] == count - 1


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


DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32),
    *(torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn),
    *(torch.float8_e5m2, torch.float8_e8m0fnu),
)


@pytest.mark.parametrize("other", DTYPES)
def test_no_precision_of_one_value_touches_another(other: torch.dtype) -> None:
    """Joined under one promotion, 1001 would be 1000 in bfloat16, and 70001 infinite in float16."""
    values = BatchValues()
    beside = torch.tensor(1.0).to(other)
    losses: list[Any] = [
        torch.tensor(1001),
        beside,
        70001.0,
        torch.tensor(123456789, dtype=torch.int32),
        beside,
        torch.tensor(0.1),
    ]
    for k in range(1200):
        values.add(losses[k % 6], 0.1, beside, None)

    read = values.read()

    assert [1001.0, 1.0, 70001.0, 123456789.0, 1.0, float(torch.tensor(0.1))] * 200 == list(read.losses)
    assert set(read.grad_norms) == {1.0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1.0),
        (2**53 + 1, float(2**53 + 1)),
        (10**300, 1e300),
        (Decimal("0.1"), 0.1),
        (Fraction(1, 3), 1 / 3),
        (np.float16(0.1), float(np.float16(0.1))),
        (np.longdouble(0.5), 0.5),
        (np.int64(-7), -7.0),
        (np.bool_(True), 1.0),
        (np.array([[2.5]]), 2.5),
        (torch.tensor([[2.5]]), 2.5),
        (torch.tensor(True), 1.0),
        (
            torch.sparse_coo_tensor(
                torch.zeros(1, 1, dtype=torch.int64), torch.tensor([2.5]), (1,), check_invariants=True
            ),
            2.5,
        ),
        (torch.nn.Parameter(torch.tensor(2.5)), 2.5),
    ],
)
def test_every_kind_of_number_is_recorded_as_it_is(value: Any, expected: float) -> None:
    """As loss, norm, learning rate and extra alike."""
    values = BatchValues()
    values.add(value, value, value, None, {"extra": value})

    read = values.read()

    assert [expected] == list(read.losses) == list(read.grad_norms) == [read.lr] == list(read.extras["extra"])
    assert {"fid": expected} == extra_values({"fid": value})


@pytest.mark.parametrize(
    "wrong",
    [
        *(10**400, -(10**400), Fraction(10**400), Decimal("1e400"), Decimal("sNaN"), 1j, np.complex64(1)),
        *(np.array(1j), torch.tensor(1j), torch.ones((), device="meta"), b"1", bytearray(b"1"), np.str_("1")),
        *(np.ones(2), torch.ones(0), "nan", {}, None),
    ],
)
@pytest.mark.parametrize("name", ["loss", "grad_norm", "lr", "extra"])
def test_what_cannot_be_recorded_is_refused_when_it_is_logged(name: str, wrong: Any) -> None:
    """Not when the epoch ends, an hour later; and no half of a batch is counted."""
    if wrong is None and name != "loss":
        pytest.skip("None means not measured")
    values = BatchValues()
    given = {"loss": 1.0, "grad_norm": 1.0, "lr": 1.0, "extra": 1.0} | {name: wrong}

    with pytest.raises(UsageError, match=r"must (be|have)"):
        values.add(given["loss"], given["lr"], given["grad_norm"], 8, {"fid": given["extra"]})

    assert (0, None) == (values.batches, values.read().lr)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_loss_changed_in_place_after_it_was_logged_is_noticed(*, requires_grad: bool) -> None:
    """By the count of changes that torch keeps, without a read; a division that makes a new tensor is none."""
    values = BatchValues()
    for number in range(3):
        loss = torch.ones((), requires_grad=requires_grad) * 2
        values.add(loss, None, None, None)
        _ = loss / 2

        assert values.is_changed_in_place == (number == 2)

        if number == 1:
            loss.detach().add_(1.0)


def test_a_running_sum_logged_at_each_batch_is_noticed_when_the_epoch_is_read() -> None:
    """The last loss has no successor that would find it out."""
    values, total = BatchValues(), torch.zeros(())
    values.add(total, None, None, None)
    total += 1
    values.read()

    assert values.is_changed_in_place


def test_tensors_of_inference_mode_are_taken() -> None:
    """They count no changes."""
    values = BatchValues()
    with torch.inference_mode():
        values.add(torch.ones(()) * 3, None, None, None)
        values.add(torch.ones(()) * 5, None, None, None)

    assert list(values.read().losses) == [3.0, 5.0]
