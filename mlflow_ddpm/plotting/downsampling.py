"""No more points than there are pixels, and no spike lost: a column keeps its lowest, highest and mean value."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlflow_ddpm.plotting.series import GAP, Floats


class Envelope(NamedTuple):
    """Columns of equal width, left to right; a column without a row is left out, one without a number is NaN."""

    x: Floats  # the middle of each column, in epochs
    low: Floats
    high: Floats
    mean: Floats  # of what lies between low and high
    width: float  # in epochs; the usual spacing of the rows where every row has its own column
    rows: int  # to a column, about; 1 where every row has its own

    def with_gaps(self) -> Envelope:
        """Return the columns with a NaN wherever one is left out, so that nothing is drawn across the gap."""
        holes = np.flatnonzero(np.diff(self.x) > GAP * self.width) + 1
        x = np.insert(self.x, holes, self.x[holes] - self.width / 2)
        low, high, mean = (np.insert(values, holes, np.nan) for values in (self.low, self.high, self.mean))
        return Envelope(x, low, high, mean, self.width, self.rows)


def envelope(epoch: Floats, low: Floats, high: Floats, columns: int, spacing: float = 1.0) -> Envelope:
    """Gather the rows (sorted) into at most ``columns`` columns, if they are more than two to a column."""
    if len(epoch) <= 2 * columns:
        return Envelope(epoch, low, high, (low + high) / 2, spacing, 1)
    width = (epoch[-1] - epoch[0] + spacing) / columns
    column = np.floor((epoch - epoch[0]) / width)
    starts = np.flatnonzero(np.diff(column, prepend=-1.0))
    middle = epoch[0] - spacing / 2 + (column[starts] + 0.5) * width
    between = (low + high) / 2
    count = np.add.reduceat(np.isfinite(between), starts, dtype=np.float64)
    count[count == 0] = np.nan
    mean = np.add.reduceat(np.nan_to_num(between), starts) / count
    lows, highs = np.fmin.reduceat(low, starts), np.fmax.reduceat(high, starts)
    return Envelope(middle, lows, highs, mean, width, max(2, round(width / spacing)))
