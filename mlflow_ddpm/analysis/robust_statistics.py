"""Levels and noise of a noisy series of (epoch, value), by medians: one wild value moves neither."""

from collections import deque
from collections.abc import Collection, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple

Points = Sequence[tuple[int, float]]
_SIGMA_PER_MAD = 1.4826  # of a normal distribution


class Block(NamedTuple):
    """Epochs that follow each other, and the level of their values."""

    points: Points
    level: float


def level(points: Points) -> float:
    """Return the median value."""
    return median(value for _, value in points)


def noise(points: Points) -> float:
    """Return the standard deviation of one value about the series' course, 0 for fewer than three.

    From the differences of neighbours, which a slow course leaves alone; they spread sqrt(2) times as wide.
    """
    steps = [b - a for (_, a), (_, b) in pairwise(points)]
    return _spread(steps) / 2**0.5 if len(steps) > 1 else 0.0


def blocks(points: Points, *, at_least: int = 5, at_most: int = 40) -> list[Block]:
    """Cut into blocks of nearly equal size, ``at_least`` values each, ``at_most`` of them; none if there are fewer."""
    count = min(at_most, len(points) // at_least)
    edges = [round(i * len(points) / count) for i in range(count + 1)] if count else []
    return [Block(points[a:b], level(points[a:b])) for a, b in pairwise(edges)]


def sliding_medians(points: Points, width: int = 5) -> list[tuple[int, float]]:
    """Return the median of each ``width`` values in a row, at the epoch of the last of them."""
    return [(points[i][0], level(points[i - width + 1 : i + 1])) for i in range(width - 1, len(points))]


def outliers(points: Points, *, factor: float, sigmas: float, width: int = 10, after: int = 5) -> list[list[int]]:
    """Return runs of neighbouring places whose values stand out above those before them.

    A value stands out if it is more than ``factor`` times, and ``sigmas`` standard deviations above, the median of the
    last ``width`` values that do not stand out themselves; the first ``after`` values never do.
    """
    window: deque[float] = deque(maxlen=width)
    runs: list[list[int]] = []
    for i, (_, value) in enumerate(points):
        if len(window) >= after:
            middle = median(window)
            excess, least = value - middle, (factor - 1) * abs(middle)
            if excess > least and excess > (spread := sigmas * _spread(window)) and max(least, spread) > 0:
                if runs and runs[-1][-1] == i - 1:
                    runs[-1].append(i)
                else:
                    runs.append([i])
                continue
        window.append(value)
    return runs


def _spread(values: Collection[float]) -> float:
    middle = median(values)
    return _SIGMA_PER_MAD * median(abs(value - middle) for value in values)
