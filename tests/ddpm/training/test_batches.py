"""What an epoch draws: every image once, or every class equally often."""

from __future__ import annotations

import torch

from mlflow_ddpm.ddpm.seeds import Purpose, seeded_generator
from mlflow_ddpm.ddpm.training.batches import EpochOrder

SKEWED = torch.tensor([5] * 900 + [2] * 90 + [7] * 10)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]


def drawn(balance: str, epoch: int) -> torch.Tensor:
    """The indices of an epoch."""
    return EpochOrder(SKEWED, balance).draw(seeded_generator(0, Purpose.TRAINING, epoch))


def test_by_default_every_image_is_drawn_once() -> None:
    """In another order each epoch, the same for the same epoch."""
    assert sorted(drawn("none", 0).tolist()) == list(range(1000))
    assert drawn("none", 0).tolist() == drawn("none", 0).tolist() != drawn("none", 1).tolist()


def test_balanced_epochs_have_every_class_equally_often() -> None:
    """Of 900, 90 and 10 images a third each, 1,000 draws in all; classes mixed, another draw each epoch."""
    first, again, second = (drawn("classes", epoch) for epoch in (0, 0, 1))
    counts = SKEWED[first].bincount()[[2, 5, 7]].tolist()

    assert sorted(counts) == [333, 333, 334]
    assert first.tolist() == again.tolist() != second.tolist()
    assert 60 < (SKEWED[first[:300]] == 7).sum() < 140


def test_within_a_class_every_image_is_drawn_equally_often() -> None:
    """Over 60 epochs each of the ten images of a rare class comes about 2,000 times, each frequent one 22 times."""
    draws = torch.cat([drawn("classes", epoch) for epoch in range(60)]).bincount(minlength=1000)

    assert draws.sum() == 60_000
    assert 1700 < draws[SKEWED == 7].min() <= draws[SKEWED == 7].max() < 2300
    assert draws[SKEWED == 5].min() > 0
    assert draws[SKEWED == 5].max() < 60


def test_classes_without_an_image_are_no_matter() -> None:
    """Labels need not be dense, and one class is enough."""
    only = EpochOrder(torch.tensor([4, 4, 4]), "classes").draw(torch.Generator().manual_seed(0))

    assert len(only) == 3
    assert set(only.tolist()) <= {0, 1, 2}
