"""A history as a DataFrame, and back.

Columns: every metric of the table in its order, the extras by name, then ``logged_at_ms``; one row per epoch, sorted
by epoch. Floats are pandas' nullable ``Float64``: ``<NA>`` means *not measured*, NaN and infinities are values that
*were* measured. Use :func:`numbers` for arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.core.metrics import METRICS, EpochMetrics, keep_last_written

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["RESUMED", "frame_from_rows", "numbers", "rows_from_frame"]

RESUMED = "resumed_at_epochs"  # in a frame's attrs


def frame_from_rows(rows: Iterable[EpochMetrics], *, resumed_at_epochs: Iterable[int] = ()) -> pd.DataFrame:
    """Return the history frame of the rows that no later one superseded.

    ``resumed_at_epochs``, the first epoch of each life of the run after the first, is kept in ``frame.attrs``.
    """
    import pandas as pd

    rows = keep_last_written(rows)
    extras = sorted({name for row in rows for name in row.extra})
    columns: dict[str, Any] = {}
    for m in METRICS:
        columns[m.name] = _column([getattr(row, m.name) for row in rows], integral=m.integral)
    for name in extras:
        columns[name] = _column([row.extra.get(name) for row in rows], integral=False)
    frame = pd.DataFrame(columns)
    frame["epoch"] = frame["epoch"].astype("int64")
    frame["logged_at_ms"] = [row.logged_at_ms for row in rows]
    frame = frame.astype({"logged_at_ms": "int64"})
    frame.attrs[RESUMED] = tuple(resumed_at_epochs)
    return frame


def rows_from_frame(frame: pd.DataFrame) -> list[EpochMetrics]:
    """Return the frame's epochs as rows: the way back from :func:`frame_from_rows`."""
    import pandas as pd

    table = [m.name for m in METRICS]
    extras = [c for c in frame.columns if c not in table and c != "logged_at_ms"]
    cells: dict[str, list[Any]] = {
        c: [None if v is pd.NA else v for v in frame[c].astype(object)] for c in frame.columns
    }
    return [
        EpochMetrics(
            **{name: cells[name][i] for name in table if name in cells},
            extra={name: cells[name][i] for name in extras if cells[name][i] is not None},
            logged_at_ms=cells["logged_at_ms"][i] if "logged_at_ms" in cells else 0,
        )
        for i in range(len(frame))
    ]


def numbers(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a column as float64; *not measured* becomes NaN. All NaN if the frame lacks the column."""
    import numpy as np

    if name not in frame:
        return np.full(len(frame), np.nan)
    return frame[name].to_numpy(dtype="float64", na_value=np.nan)


def _column(values: list[Any], *, integral: bool) -> Any:
    """Make a nullable column with an explicit mask: the usual constructors would turn NaN into ``<NA>``."""
    import numpy as np
    from pandas.arrays import FloatingArray, IntegerArray

    mask = np.array([v is None for v in values], dtype=bool)
    filled = [0 if v is None else v for v in values]
    if integral:
        return IntegerArray(np.array(filled, dtype="int64"), mask)
    return FloatingArray(np.array(filled, dtype="float64"), mask)
