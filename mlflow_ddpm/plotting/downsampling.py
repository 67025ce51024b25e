"""No more points than there are pixels, and no spike lost: a column keeps its lowest, highest and mean value."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Envelope", "envelope", "open_gaps"]


class Envelope(NamedTuple):
    """Columns of equal width, left to right; a column without an epoch is left out, one without a number is NaN."""

    x: Floats  # the middle of each column, in epochs
    low: Floats
    high: Floats
    mean: Floats  # of what lies between low and high
    width: float  # in epochs; 1 where every epoch has its own column


def envelope(epoch: Floats, low: Floats, high: Floats, columns: int) -> Envelope:
    """Gather the epochs (sorted) into at most ``columns`` columns, if they are more than two to a column."""
    if len(epoch) <= 2 * columns:
        return Envelope(epoch, low, high, (low + high) / 2, 1.0)
    span = epoch[-1] - epoch[0] + 1
    width = span / columns
    column = np.floor((epoch - epoch[0]) / width)
    starts = np.flatnonzero(np.diff(column, prepend=-1.0))
    middle = epoch[0] - 0.5 + (column[starts] + 0.5) * width
    between = (low + high) / 2
    count = np.add.reduceat(np.isfinite(between), starts, dtype=np.float64)
    count[count == 0] = np.nan
    mean = np.add.reduceat(np.nan_to_num(between), starts) / count
    return Envelope(middle, np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts), mean, width)


def open_gaps(x: Floats, width: float, *values: Floats) -> tuple[Floats, ...]:
    """Return x and values with a NaN put in wherever a column is left out, so that nothing is drawn across it."""
    holes = np.flatnonzero(np.diff(x) > 1.5 * width) + 1
    return (np.insert(x, holes, x[holes] - width / 2), *(np.insert(v, holes, np.nan) for v in values))
