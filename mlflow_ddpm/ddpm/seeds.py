"""Random numbers as a function of the run's seed and of what they are for, so that a resumed run draws the same."""

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What numbers are drawn for; each purpose has its own stream."""

    WEIGHTS = 0
    TRAINING = 1
    GRID = 2
    EVALUATION = 3


def seed_for(seed: int, purpose: Purpose, position: int = 0) -> int:
    """Return a seed of 32 bits, all that torch's CPU generator looks at, mixed from all three numbers."""
    return int(np.random.SeedSequence([seed, purpose, position]).generate_state(1)[0])


def seeded_generator(
    seed: int, purpose: Purpose, position: int = 0, *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return a generator on ``device`` at the start of the purpose's stream; CPU and CUDA streams differ."""
    return torch.Generator(device=device).manual_seed(seed_for(seed, purpose, position))
