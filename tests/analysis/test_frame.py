"""Any frame of a user's is read rightly, or refused in one line."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.histories import INF, NAN, healthy_row

from mlflow_ddpm import HistoryError, UsageError, generate_report, read_history
from mlflow_ddpm.analysis.frame import frame_from_rows
from mlflow_ddpm.analysis.history import load_history
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.csv_file import render_csv

LOST = {"loss_mean": NAN, "loss_std": NAN, "loss_min": NAN, "loss_max": NAN, "loss_median": NAN, "grad_norm": NAN}
ROWS = [healthy_row(epoch) for epoch in (0, 1, 2, 4, 5)]
ROWS[2] = replace(ROWS[2], nonfinite_batches=3, **LOST)  # type: ignore[arg-type]
ROWS[3] = replace(ROWS[3], gpu_peak_mb=None, grad_norm=INF, nonfinite_batches=1, extra={"fid": 3.0})
CSV = render_csv(ROWS).decode()


def _read_csv(text: str = CSV, **options: object) -> pd.DataFrame:
    """Read as pandas 3 does; pandas 2 would lose the last bit of some numbers by default."""
    if pd.__version__ < "3":
        options["float_precision"] = "round_trip"
    return pd.read_csv(io.StringIO(text), **options)  # type: ignore[call-overload, no-any-return]


def _cells(rows: Sequence[EpochMetrics]) -> list[str]:
    """Return rows as text, in which NaN equals itself."""
    return [f"{row.values()} {row.logged_at_ms}" for row in rows]


def _saved_with_its_index(frame: pd.DataFrame) -> pd.DataFrame:
    file = io.StringIO()
    frame.to_csv(file)
    return _read_csv(file.getvalue())


RIGHT: dict[str, Callable[[], pd.DataFrame]] = {
    "as it is": lambda: frame_from_rows(ROWS),
    "newest first": lambda: frame_from_rows(ROWS).iloc[::-1],
    "shuffled": lambda: frame_from_rows(ROWS).sample(frac=1, random_state=1),
    "twice the same": lambda: pd.concat([frame_from_rows(ROWS), frame_from_rows(ROWS)]),
    "two halves": lambda: pd.concat([frame_from_rows(ROWS[3:]), frame_from_rows(ROWS[:3])]),
    "read_csv": _read_csv,
    "read_csv, newest first": lambda: _read_csv().iloc[::-1],
    "read_csv as text": lambda: _read_csv(dtype=str),
    "read_csv, empty cells kept": lambda: _read_csv(dtype=str, keep_default_na=False),
    "float epochs": lambda: _read_csv().astype({"epoch": float, "nonfinite_batches": float}),
    "epochs as text": lambda: _read_csv().astype({"epoch": str}),
    "objects": lambda: _read_csv().astype(object),
    "categories": lambda: _read_csv().astype("category"),
    "categories of text": lambda: _read_csv(dtype=str).astype("category"),
    "nullable numbers": lambda: _read_csv(dtype_backend="numpy_nullable"),
    "converted to nullable numbers": lambda: _read_csv().convert_dtypes(),
    "epoch as index": lambda: _read_csv().set_index("epoch"),
    "with a saved index": lambda: _saved_with_its_index(_read_csv()),
    "any index": lambda: _read_csv().set_index(pd.Index(list("abcde"))),
}


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # pandas 2.2 in convert_dtypes
@pytest.mark.parametrize("name", RIGHT)
def test_a_frame_is_read_whatever_pandas_made_of_it(name: str) -> None:
    """Order, index and types of columns are the user's; not measured and not finite stay apart."""
    assert _cells(ROWS) == _cells(load_history(RIGHT[name]()).rows)


def test_read_history_returns_any_frame_in_order() -> None:
    """One row per epoch, sorted, with the columns of every other source."""
    pd.testing.assert_frame_equal(read_history(_read_csv().iloc[::-1]), frame_from_rows(ROWS))


@pytest.mark.parametrize(
    "later",
    [
        _read_csv().assign(epoch=lambda frame: frame["epoch"] + 6),  # of another run, renumbered
        _read_csv().assign(epoch=lambda frame: frame["epoch"] + 6, logged_at_ms=1),
        pd.DataFrame({"epoch": [6], "loss_mean": [0.1]}),  # without a time
    ],
)
def test_epochs_of_a_frame_stay_whatever_their_times(later: pd.DataFrame, tmp_path: Path) -> None:
    """Times of several runs would say that one epoch supersedes another; a frame's epochs are the user's to choose."""
    frame = pd.concat([_read_csv(), later])

    assert [*sorted(frame["epoch"])] == list(read_history(frame)["epoch"])
    text = generate_report(frame, save_dir=tmp_path).read_text(encoding="utf-8")
    assert re.search(rf"^\|\s+{max(frame['epoch'])} \|", text, re.MULTILINE)


def test_few_columns_are_enough() -> None:
    """A loss that is NaN was measured, for every batch has one; everything else was not."""
    rows = load_history(pd.DataFrame({"epoch": [1, 0, 2], "loss_mean": [0.5, 1.0, NAN]})).rows

    assert _cells(rows) == _cells([EpochMetrics(epoch=i, loss_mean=x) for i, x in enumerate((1.0, 0.5, NAN))])


WRONG: dict[str, tuple[Callable[[], pd.DataFrame], type[Exception], str]] = {
    "no epochs": (lambda: _read_csv().drop(columns="epoch"), HistoryError, "a column 'epoch'"),
    "nothing": (pd.DataFrame, HistoryError, "a column 'epoch'"),
    "negative": (lambda: _read_csv().assign(epoch=-1), UsageError, "whole numbers >= 0 .* got -1"),
    "between two epochs": (lambda: _read_csv().assign(epoch=0.5), UsageError, "whole numbers >= 0 .* got 0.5"),
    "no number": (lambda: _read_csv().assign(epoch=NAN), UsageError, "got nothing in row 0"),
    "infinite": (lambda: _read_csv().assign(epoch=INF), UsageError, "got inf"),
    "too large": (lambda: _read_csv().assign(epoch=1e30), UsageError, "got 1e"),
    "truth values": (lambda: _read_csv().assign(epoch=True), UsageError, "got bool"),
    "words": (lambda: _read_csv().assign(phase="warm-up"), UsageError, "column 'phase', got 'warm-up'"),
    "dates": (lambda: _read_csv().assign(day=pd.Timestamp("2026-01-01")), UsageError, "column 'day'"),
    "two runs": (
        lambda: pd.concat([_read_csv(), _read_csv().assign(loss_mean=2.0)]),
        UsageError,
        "epoch 0 twice with different values",
    ),
    "a column twice": (lambda: pd.concat([_read_csv(), _read_csv()[["lr"]]], axis=1), UsageError, "'lr' twice"),
    "two levels": (
        lambda: _read_csv().set_axis(pd.MultiIndex.from_product([["a"], _read_csv().columns]), axis=1),
        UsageError,
        "one level of columns",
    ),
    "numbered columns": (lambda: _read_csv().rename(columns={"lr": 3}), UsageError, "must be strings, got 3"),
    "half a batch": (lambda: _read_csv().assign(nonfinite_batches=0.5), UsageError, "'nonfinite_batches', got 0.5"),
    "complex": (lambda: _read_csv().assign(lr=np.complex128(1j)), UsageError, "'lr', got complex"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_history_is_refused_in_one_line(name: str) -> None:
    """The message names the column and what stands there."""
    make, error, message = WRONG[name]
    with pytest.raises(error, match=message) as refused:
        load_history(make())
    assert "\n" not in str(refused.value)
