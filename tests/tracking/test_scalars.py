"""What may be logged as one number."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking.scalars import extra_values, sample_count, scalar


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


def test_a_loss_is_kept_without_its_graph() -> None:
    """Else every batch's graph would live until the epoch ends."""
    loss = torch.ones((), requires_grad=True) * 2

    assert not scalar("loss", loss).requires_grad


def test_extras_that_are_none_were_not_measured() -> None:
    """Others become floats."""
    assert extra_values({"fid": torch.tensor(1.5), "later": None}) == {"fid": 1.5}


@pytest.mark.parametrize("size", [-1, 2.5, "4"])
def test_a_batch_size_is_a_whole_number(size: Any) -> None:
    """None means not known."""
    assert sample_count(None) is None
    with pytest.raises(UsageError, match="batch_size must be"):
        sample_count(size)
