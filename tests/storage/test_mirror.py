"""The files on disk, read back with the standard library."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlflow_ddpm.core.errors import MirrorError, UsageError
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.csv_file import CsvJournal, parse_csv, read_csv, render_csv
from mlflow_ddpm.storage.directory_lock import is_locked
from mlflow_ddpm.storage.json_file import read_document
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME
from mlflow_ddpm.storage.mirror import Mirror

FINISHED = RunOutcome("FINISHED")
AWKWARD = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -1e-17, 123456789.123456789, 2.0, math.inf, -math.inf]


def _row(epoch: int, **values: Any) -> EpochMetrics:
    return EpochMetrics(epoch=epoch, **{"loss_mean": 1.0 / (epoch + 1), "logged_at_ms": 1000 + epoch, **values})


def _table(directory: Path) -> list[dict[str, str]]:
    with (directory / CSV_NAME).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _refuse_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def _document(directory: Path) -> Any:
    return json.loads((directory / JSON_NAME).read_text(encoding="utf-8"), parse_constant=_refuse_constants)


def test_each_row_is_in_the_csv_as_soon_as_it_is_written(tmp_path: Path) -> None:
    """Header first, columns in the table's order, then extras, then the time; nothing waits for the end."""
    mirror = Mirror(tmp_path).open()
    mirror.write(_row(0, extra={"fid": 12.5, "accuracy": 0.5}))

    (cells,) = _table(tmp_path)

    assert [*(m.name for m in METRICS), "accuracy", "fid", "logged_at_ms"] == list(cells)
    assert (cells["epoch"], cells["loss_mean"], cells["lr"], cells["fid"]) == ("0", "1.0", "", "12.5")
    mirror.close(FINISHED)


def test_floats_come_back_to_the_last_bit_from_csv_and_json(tmp_path: Path) -> None:
    """Subnormals, the largest double and infinities included."""
    mirror = Mirror(tmp_path).open()
    for epoch, value in enumerate(AWKWARD):
        mirror.write(_row(epoch, loss_mean=value, extra={"x": value}))
    mirror.close(FINISHED)

    assert AWKWARD == [float(cells["loss_mean"]) for cells in _table(tmp_path)]
    assert AWKWARD == [row.extra["x"] for row in read_csv(tmp_path / CSV_NAME)]
    assert AWKWARD == [row.loss_mean for row in read_document(tmp_path / JSON_NAME).rows]


def test_the_json_is_strict_and_tells_not_measured_from_not_finite(tmp_path: Path) -> None:
    """Null is not measured; the strings NaN and Infinity are measured and not finite."""
    mirror = Mirror(tmp_path).open()
    mirror.describe(config={"lr": 0.1}, environment={"device": "cpu"})
    mirror.update_run({"run_id": "abc"})
    mirror.write(_row(0, loss_mean=math.nan, lr=None, extra={"x": -math.inf}))
    mirror.close(FINISHED)

    document = _document(tmp_path)
    (epoch,) = document["epochs"]

    assert ["schema_version", "run", "config", "environment", "summary", "epochs"] == list(document)
    assert {"run_id": "abc", "status": "FINISHED"} == document["run"]
    assert (epoch["loss_mean"], epoch["lr"], epoch["x"]) == ("NaN", None, "-Infinity")


def test_the_json_follows_while_the_run_goes_on(tmp_path: Path) -> None:
    """It may lag by seconds, not by epochs of minutes."""
    mirror = Mirror(tmp_path).open()
    mirror.write(_row(0))
    deadline = time.monotonic() + 30
    while not (tmp_path / JSON_NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.01)

    assert len(_document(tmp_path)["epochs"]) == 1
    mirror.close(FINISHED)


def test_a_new_extra_widens_the_table_and_keeps_every_row(tmp_path: Path) -> None:
    """Earlier epochs have an empty cell: not measured."""
    mirror = Mirror(tmp_path).open()
    mirror.write(_row(0))
    mirror.write(_row(1, extra={"fid": 3.0}))
    mirror.write(_row(2))
    mirror.close(FINISHED)

    assert ["", "3.0", ""] == [cells["fid"] for cells in _table(tmp_path)]


def test_a_row_of_an_earlier_epoch_supersedes_what_followed(tmp_path: Path) -> None:
    """One row per epoch, the last one written wins."""
    mirror = Mirror(tmp_path).open()
    for epoch in range(5):
        mirror.write(_row(epoch))
    mirror.write(_row(3, loss_mean=9.0, logged_at_ms=2000))
    mirror.close(FINISHED)

    assert [("0", "1.0"), ("1", "0.5"), ("3", "9.0")] == [
        (cells["epoch"], cells["loss_mean"]) for cells in _table(tmp_path) if cells["epoch"] != "2"
    ]
    assert _document(tmp_path)["summary"]["epochs"] == 4


def test_a_torn_last_line_is_cut_off_and_kept_beside_the_file(tmp_path: Path) -> None:
    """What a crash left of a row is no row."""
    whole = render_csv([_row(0), _row(1)])
    (tmp_path / CSV_NAME).write_bytes(whole + b"2,0.33")

    rows = CsvJournal(tmp_path / CSV_NAME).recover()

    assert [0, 1] == [row.epoch for row in rows]
    assert whole == (tmp_path / CSV_NAME).read_bytes()
    assert (tmp_path / (CSV_NAME + ".torn")).read_bytes() == b"2,0.33"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a,b\n1,2\n", "expected a header with one column 'epoch'"),
        (b"epoch,loss_mean\n0,abc\n", "line 2, column loss_mean: expected a number or nothing, got 'abc'"),
        (b"epoch,loss_mean\n0,1_0\n", "got '1_0'"),
        (b"epoch,loss_mean\n0,1,2\n", "line 2: expected 2 cells as in the header, got 3"),
        (b"epoch,loss_mean\n-1,1\n", "whole numbers >= 0"),
        (b"epoch,loss_mean\n0.5,1\n", "column epoch"),
        (b"\xff\xfe\x00e\n", "not a CSV file in UTF-8"),
        (b"epoch,epoch\n0,0\n", "one column 'epoch'"),
    ],
)
def test_files_that_are_not_ours_or_nonsense_are_refused_with_the_place(content: bytes, says: str) -> None:
    """Never a traceback of the parser, never a row invented."""
    with pytest.raises(MirrorError, match=says):
        parse_csv(content, "metrics.csv")


def test_a_foreign_file_is_left_untouched(tmp_path: Path) -> None:
    """The directory is let go, too."""
    (tmp_path / CSV_NAME).write_bytes(b"epoch,accuracy\n0,1\n")

    with pytest.raises(MirrorError, match="choose another output_dir"):
        Mirror(tmp_path).open()

    assert (tmp_path / CSV_NAME).read_bytes() == b"epoch,accuracy\n0,1\n"
    assert is_locked(tmp_path) is False


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 99}', '{"schema_version": 1, "epochs": 3}'])
def test_a_json_that_is_not_ours_is_refused(tmp_path: Path, content: str) -> None:
    """Another schema, or nonsense."""
    (tmp_path / JSON_NAME).write_text(content)

    with pytest.raises(MirrorError, match=JSON_NAME):
        read_document(tmp_path / JSON_NAME)


def test_a_second_live_process_is_refused_and_told_who_writes(tmp_path: Path) -> None:
    """A hold ends with its process, however that ended."""
    code = f"""
import sys, time
from pathlib import Path
from mlflow_ddpm.storage.mirror import Mirror
mirror = Mirror(Path({str(tmp_path)!r})).open()
print("held", flush=True)
time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"

    with pytest.raises(UsageError, match=f"being written by process {other.pid} on "):
        Mirror(tmp_path).open()

    other.kill()
    other.communicate()
    Mirror(tmp_path).open().close(FINISHED)


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    """One clear line."""
    (tmp_path / "out").write_text("x")

    with pytest.raises(UsageError, match="must be a directory"):
        Mirror(tmp_path / "out").open()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_warning_and_loses_no_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows wait in memory, and the next write that succeeds writes them all."""
    mirror = Mirror(tmp_path).open()
    mirror.write(_row(0))
    mirror._journal.close()
    mirror._journal._handle = os.open("/dev/full", os.O_WRONLY)  # every write to it fails with ENOSPC
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        mirror.write(_row(1))

    mirror.write(_row(2))
    mirror.close(FINISHED)

    assert ["0", "1", "2"] == [cells["epoch"] for cells in _table(tmp_path)]
    warning, relief = (record.getMessage() for record in caplog.records)
    assert "cannot write to" in warning
    assert "can be written again, and has every row (3 rows)" in relief
    assert "No space left" in caplog.text
