"""What may be logged as one number."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking.batch_values import BatchValues
from mlflow_ddpm.tracking.scalars import extra_values, sample_count, scalar


class _Loss(torch.Tensor):
    """A tensor of a class of the user's."""


@pytest.mark.parametrize(
    "value", [2, 2.0, True + 1, np.float32(2), np.array([2.0]), Decimal(2), Fraction(2), torch.tensor([[2.0]])]
)
def test_every_kind_of_one_number_is_taken(value: Any) -> None:
    """Also arrays and tensors of one element."""
    assert float(scalar("loss", value)) == 2.0


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("0.5", "a real number"),
        (None, "a real number"),
        (1j, "a real number"),
        (torch.ones(3), r"one number, got a tensor of shape \(3,\)"),
        (torch.ones((), dtype=torch.complex64), "a real number"),
        (torch.ones((), device="meta"), "must have a value"),
        (Decimal("1e400"), "within float64"),
    ],
)
def test_what_is_no_number_is_refused_when_it_is_logged(value: Any, reason: str) -> None:
    """The message names what came."""
    with pytest.raises(UsageError, match=f"loss must be .*{reason}" if "must" not in reason else reason):
        scalar("loss", value)


def _unreadable() -> list[Any]:
    return [
        torch.nested.nested_tensor([torch.ones(1)]),
        torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
        torch.nested.nested_tensor([torch.ones(1)], layout=torch.jagged),
        torch.empty((), dtype=torch.uint4),  # type: ignore[attr-defined]
        torch.empty((), dtype=torch.bits8),
        FakeTensorMode().from_tensor(torch.ones(())),
        torch.nn.UninitializedParameter(),
        np.ma.masked,
        np.ma.array([1.5], mask=[True]),
        np.datetime64("2020-01-01T00:00:00.000000000"),
        np.timedelta64(5, "ns"),
        np.clongdouble(1),
        np.array([None], dtype=object),
        10**400,
        10**5000,
        Fraction(10**5000, 3),
        [0.5] * 100_000,
        "a\nb",
    ]


@pytest.mark.filterwarnings("ignore")  # torch's own, of what it deprecates
def test_what_cannot_be_read_later_is_refused_now_in_one_short_line() -> None:
    """What torch and NumPy raise, or worse take for a number, is one error of ours."""
    for value in _unreadable():
        with pytest.raises(UsageError, match=r"loss must be .{1,300}") as raised:
            scalar("loss", value)
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore")
def test_tensors_of_every_layout_and_class_are_read() -> None:
    """Whatever was logged before: what is known of one type or layout holds for no other."""
    one = torch.tensor(3.0)
    values = [
        one,
        torch.sparse_coo_tensor(torch.zeros(0, 1), torch.tensor([3.0]), ()),
        one.reshape(1, 1).to_sparse_csr(),
    ]
    values += [torch.quantize_per_tensor(one, 0.1, 0, torch.quint8), one.as_subclass(_Loss), torch.nn.Parameter(one)]
    batches = BatchValues()
    for value in values:
        batches.add(value, value, value, None)

    assert [round(loss, 6) for loss in batches.read().losses] == [3.0] * len(values)


def test_a_loss_is_kept_without_its_graph() -> None:
    """Else every batch's graph would live until the epoch ends."""
    loss = torch.ones((), requires_grad=True) * 2

    assert not scalar("loss", loss).requires_grad


def test_extras_that_are_none_were_not_measured() -> None:
    """Others become floats."""
    assert extra_values({"fid": torch.tensor(1.5), "later": None}) == {"fid": 1.5}


@pytest.mark.parametrize("size", [-1, 2.5, "4", 10**400, torch.tensor(2.5), np.ones(2), True])
def test_a_batch_size_is_a_whole_number(size: Any) -> None:
    """None means not known."""
    assert sample_count(None) is None
    with pytest.raises(UsageError, match="batch_size must be"):
        sample_count(size)
