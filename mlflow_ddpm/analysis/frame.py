"""A run's rows as a DataFrame, and a user's DataFrame as rows.

Columns: every metric of the table in its order, the extras by name, then ``logged_at_ms``; one row per epoch, sorted
by epoch. Floats are pandas' nullable ``Float64``: ``<NA>`` means *not measured*, NaN and infinities are values that
*were* measured. Use :func:`numbers` for arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate, pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.core.errors import HistoryError, UsageError
from mlflow_ddpm.core.extra_metrics import check_extra_names
from mlflow_ddpm.core.metrics import INTEGRAL_COLUMNS, METRICS, TABLE_COLUMNS, EpochMetrics, keep_last_written

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

RESUMED = "resumed_at_epochs"  # in a frame's attrs and a run's facts
EVERY_N_STEPS = "every_n_steps"  # there, too, where rows are windows of steps
_LOSS = tuple(name for name in TABLE_COLUMNS if name.startswith("loss_"))
_MAX_INT = 2**63 - 1


def frame_from_rows(rows: Iterable[EpochMetrics], *, resumed_at_epochs: Iterable[int] = ()) -> pd.DataFrame:
    """Return the history frame of the rows that no later one superseded.

    ``resumed_at_epochs``, the first epoch after each resume, is kept in ``frame.attrs``.
    """
    import pandas as pd

    rows = keep_last_written(rows)
    extras = sorted({name for row in rows for name in row.extra})
    columns = {m.name: _column([getattr(row, m.name) for row in rows], integral=m.integral) for m in METRICS}
    columns |= {name: _column([row.extra.get(name) for row in rows], integral=False) for name in extras}
    columns["logged_at_ms"] = [row.logged_at_ms for row in rows]
    frame = pd.DataFrame(columns).astype({"epoch": "int64", "logged_at_ms": "int64"})
    frame.attrs[RESUMED] = tuple(resumed_at_epochs)
    return frame


def numbers(frame: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """Return a column as float64; *not measured* becomes NaN. All NaN if the frame has no such column."""
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


def rows_from_frame(frame: pd.DataFrame) -> list[EpochMetrics]:
    """Return the rows of any frame with a column ``epoch``, one per epoch, sorted by epoch.

    The frame may come from :func:`mlflow_ddpm.read_history`, from ``pandas.read_csv``, or from a user's own work on
    either: in any order, with any index, with whole numbers as floats or text. Where pandas has one sign for NaN and
    empty cells, it means *not measured*, except for a loss, gradient norm or EMA distance in an epoch that counts
    non-finite batches.

    Raises:
        HistoryError: the frame has no column ``epoch``.
        UsageError: a column occurs twice, or is not numeric; an epoch is no whole number >= 0, or occurs twice with
            different values.
    """
    frame = _with_epoch_column(frame)
    cells = {name: _cells(name, frame[name]) for name in frame.columns}
    # pandas.read_csv with nullable types makes NaN <NA>; our own frames keep the two apart.
    is_ours = RESUMED in frame.attrs
    has_nan = {name for name, column in cells.items() if any(type(v) is float and math.isnan(v) for v in column)}
    may_have_lost = {name for name in cells if _nan_is_empty(frame[name]) or not (is_ours or name in has_nan)}
    _restore_nan(cells, may_have_lost)
    check_extra_names(name for name in cells if name not in TABLE_COLUMNS and name != "logged_at_ms")
    if None in cells["epoch"]:
        number = cells["epoch"].index(None)
        raise UsageError(
            f"expected a whole number >= 0 in the column 'epoch', got nothing in row {number} of the frame"
        )
    cells["logged_at_ms"] = [ms or 0 for ms in cells.get("logged_at_ms", [0] * len(frame))]
    rows = [EpochMetrics.from_cells(dict(zip(cells, row, strict=True))) for row in zip(*cells.values(), strict=True)]
    rows = list(_one_per_epoch(sorted(rows, key=lambda row: row.epoch)))
    # By their times, rows of several runs, or of none, would supersede each other: what the frame has counts.
    times = accumulate((row.logged_at_ms for row in rows), max)
    pairs = zip(rows, times, strict=True)
    return [row if row.logged_at_ms == time else replace(row, logged_at_ms=time) for row, time in pairs]


def _with_epoch_column(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with an index named ``epoch`` as a column, and without the index that ``to_csv`` saved."""
    if frame.columns.nlevels > 1:
        raise UsageError("expected a history frame with one level of columns, got several; flatten them first")
    if "epoch" not in frame.columns and "epoch" in frame.index.names:
        frame = frame.reset_index()
    if "epoch" not in frame.columns:
        raise HistoryError(
            f"expected a history frame with a column 'epoch', got {[str(name) for name in frame.columns[:5]]}; "
            "read_history returns one"
        )
    frame = frame[[name for name in frame.columns if not str(name).startswith("Unnamed: ")]]
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        raise UsageError(f"the history frame has the column {twice!r} twice; drop or rename one of them")
    return frame


def _nan_is_empty(column: pd.Series) -> bool:
    """Return whether the column has no other sign than NaN for an empty cell."""
    import numpy as np
    import pandas as pd

    if not isinstance(column.dtype, np.dtype):
        return isinstance(column.dtype, pd.StringDtype | pd.CategoricalDtype)
    return column.dtype.kind == "f" or not any(value is None or value is pd.NA for value in column)


def _cells(name: str, column: pd.Series) -> list[Any]:
    """Return a column's numbers, None where nothing was measured; NaN stays where the column can tell the two apart."""
    if getattr(column.dtype, "kind", "") not in "iufO":  # bool, complex, dates
        raise UsageError(f"expected numbers in the history frame's column {name!r}, got {column.dtype}")
    nan_is_empty, missing = _nan_is_empty(column), column.isna().tolist()
    return [
        None if empty and (nan_is_empty or not isinstance(value, float)) else _number(name, value)
        for value, empty in zip(column.astype(object), missing, strict=True)
    ]


def _number(name: str, value: Any) -> int | float | None:
    """Return a cell as the type of its column. Text is read as Python reads numbers, an empty one is *not measured*."""
    import pandas as pd

    is_integral = name in INTEGRAL_COLUMNS
    if type(value) is float and not is_integral:  # as most cells are: what follows takes longer
        return value
    if type(value) is int and is_integral and 0 <= value <= _MAX_INT:
        return value
    if value is pd.NA or value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, str | Real):
        raise UsageError(f"expected numbers in the history frame's column {name!r}, got {value!r}")
    try:
        number = float(value)
        if not is_integral:
            return number
        whole = int(value) if isinstance(value, Integral) else int(number)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"expected numbers in the history frame's column {name!r}, got {value!r:.80}") from error
    if whole != number or not 0 <= whole <= _MAX_INT:
        raise UsageError(f"expected whole numbers >= 0 in the history frame's column {name!r}, got {value!r:.80}")
    return whole


def _restore_nan(cells: Mapping[str, list[Any]], ambiguous: set[str]) -> None:
    """Put back the NaN that a column cannot tell from an empty cell: where the epoch counts non-finite batches.

    Every batch has a loss, so a loss is NaN also where the frame has no such count. A gradient norm was measured only
    if some other epoch has one; so was an EMA distance, which is NaN only once the loss is, too.
    """
    losses = list(cells.get("loss_mean", ()))
    counts = cells.get("nonfinite_batches") or [1 if value is None else 0 for value in losses]
    for name in [name for name in (*_LOSS, "grad_norm", "ema_delta_norm") if name in ambiguous]:
        has_numbers = any(value is not None for value in cells[name])
        is_measured = has_numbers or (name in _LOSS and "nonfinite_batches" in cells)
        for i, count in enumerate(counts if is_measured else ()):
            if count and cells[name][i] is None and (name != "ema_delta_norm" or losses[i] is None):
                cells[name][i] = math.nan


def _one_per_epoch(rows: list[EpochMetrics]) -> Iterator[EpochMetrics]:
    """Yield sorted rows, equal ones once. Which of two different rows of an epoch counts is the user's to decide."""
    for row, following in pairwise(rows):
        if row.epoch != following.epoch:
            yield row
        elif repr(row) != repr(following):  # NaN equals itself in text
            raise UsageError(
                f"the history frame has epoch {row.epoch} twice with different values; give one run's rows, one per "
                "epoch, such as frame.drop_duplicates('epoch', keep='last')"
            )
    yield from rows[-1:]
