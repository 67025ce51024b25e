"""Random numbers are a function of seed, purpose and position."""

from __future__ import annotations

import itertools

import torch

from mlflow_ddpm.ddpm.seeds import Purpose, seed_for, seeded_generator


def test_each_purpose_and_position_of_each_seed_has_a_stream_of_its_own() -> None:
    """No two of them share a seed, and each fits into 32 bits."""
    seeds = [seed_for(*key) for key in itertools.product((0, 1, 2**31 - 1), Purpose, range(50))]

    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_stream_begins_anew_whatever_was_drawn_before() -> None:
    """Torch's own generator is left alone."""
    before = torch.random.get_rng_state()
    first, again = (torch.rand(5, generator=seeded_generator(3, Purpose.TRAINING, 7)) for _ in range(2))

    assert torch.equal(first, again)
    assert torch.equal(before, torch.random.get_rng_state())
