"""The journal: what is appended is on disk, and reads back to the last bit."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
from support.histories import healthy_row

from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.storage.csv_file import CsvJournal, parse_csv, read_csv, render_csv

ROWS = [healthy_row(epoch) for epoch in range(3)]


def test_rows_read_back_as_the_same_numbers() -> None:
    """Not measured, NaN and infinities stay apart; so do whole numbers and floats."""
    rows = [replace(ROWS[0], loss_mean=math.inf, lr=None, extra={"fid": 1 / 3}), replace(ROWS[1], grad_norm=math.nan)]

    again = parse_csv(render_csv(rows), "x")

    assert [repr(row.values()) for row in again] == [repr(row.values()) for row in rows]


def test_rows_are_appended_and_a_new_extra_rewrites_the_header(tmp_path: Path) -> None:
    """As the standard library reads them."""
    journal = CsvJournal(tmp_path / "training_metrics.csv")
    for count in (1, 2, 3):
        rows = [*ROWS[:2], replace(ROWS[2], extra={"fid": 2.0})][:count]
        journal.write(rows)
        with journal.path.open(newline="") as file:
            cells = list(csv.DictReader(file))
        assert [int(row["epoch"]) for row in cells] == list(range(count))
        assert journal.is_current(rows)
        assert journal.holds(rows)
    assert [row["fid"] for row in cells] == ["", "", "2.0"]
    journal.close()


def test_a_journal_is_continued_by_the_next_process(tmp_path: Path) -> None:
    """After a kill in the middle of a line, whose remains are kept beside the file."""
    path = tmp_path / "training_metrics.csv"
    path.write_bytes(render_csv(ROWS[:2]) + b"2,0.")
    journal = CsvJournal(path)
    assert journal.recover() == ROWS[:2]
    journal.write(ROWS)
    journal.close()

    assert read_csv(path) == ROWS
    assert (tmp_path / "training_metrics.csv.torn").read_bytes() == b"2,0."


@pytest.mark.parametrize("cell", ["1_0", " 7", "0x1f", "1e", "one"])
def test_what_python_alone_would_take_for_a_number_is_refused_with_its_place(cell: str) -> None:
    """A cell of another program is damage."""
    with pytest.raises(MirrorError, match=r"x, line 2, column lr: expected a number or nothing, got"):
        parse_csv(f"epoch,lr\n0,{cell}\n".encode(), "x")
