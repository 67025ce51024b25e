"""The mirror's bytes, damaged in every way: repaired or refused, never another exception, never a row invented."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.csv_file import CsvJournal, parse_csv, render_csv
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.json_file import RunDocument, read_document, render_document
from mlflow_ddpm.storage.layout import CSV_NAME, DELIVERY_STATE_NAME, JSON_NAME
from mlflow_ddpm.storage.mirror import Mirror

FINISHED = RunOutcome("FINISHED")
ROWS = [
    EpochMetrics(epoch=n, loss_mean=1 / (n + 1), lr=0.1, extra={"fid": float(n)} if n else {}, logged_at_ms=10**12 + n)
    for n in range(6)
]
CSV = render_csv(ROWS)
JSON = render_document(RunDocument({"run_id": "a"}, {"lr": 0.1}, {}, ROWS))
MANY = settings(max_examples=120, deadline=None, derandomize=True)
EPOCHS = [row.epoch for row in ROWS]


def _recover(content: bytes) -> list[EpochMetrics] | None:
    """Open a journal of these bytes as a tracker would; None if it is refused, and then it must be untouched."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / CSV_NAME
        path.write_bytes(content)
        try:
            rows = CsvJournal(path).recover()
        except MirrorError:
            assert path.read_bytes() == content
            return None
        kept, torn = path.read_bytes(), path.with_name(CSV_NAME + ".torn")
        assert kept + (torn.read_bytes() if torn.exists() else b"") == content
        assert parse_csv(kept, "again") == rows
        return rows


@MANY
@given(st.integers(0, len(CSV)))
def test_a_truncated_journal_keeps_its_whole_rows(length: int) -> None:
    """Whatever instant a crash chose."""
    rows = _recover(CSV[:length])

    assert rows == ROWS[: max(0, CSV[:length].count(b"\n") - 1)]


@MANY
@given(st.binary(max_size=200))
def test_what_is_appended_to_a_journal_is_no_row_of_ours_unless_it_is_one(tail: bytes) -> None:
    """A tail without a line feed is cut off and kept; any other must read as later epochs."""
    rows = _recover(CSV + tail)

    if b"\n" not in tail:
        assert rows == ROWS
    elif rows is not None:
        assert rows[: len(ROWS)] == ROWS
        assert len(rows) <= len(ROWS) + tail.count(b"\n")


@MANY
@given(st.integers(0, 8 * len(CSV) - 1))
def test_a_flipped_bit_is_refused_or_changes_one_number_and_never_the_number_of_rows_upwards(bit: int) -> None:
    """There is no checksum: a digit that became another digit reads as a number."""
    flipped = bytearray(CSV)
    flipped[bit // 8] ^= 1 << bit % 8
    rows = _recover(bytes(flipped))

    if rows is not None:
        assert len(rows) in (len(ROWS), len(ROWS) - 1)
        assert sum(a != b for a, b in zip(rows, ROWS, strict=False)) <= 1 or flipped.index(b"\n") > bit // 8


@MANY
@given(st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "cp500", "utf-7"]), st.integers(0, len(CSV)))
def test_other_encodings_are_read_as_they_are_meant_or_refused(encoding: str, length: int) -> None:
    """A byte order mark is no harm; everything else is."""
    rows = _recover(CSV[:length].decode().encode(encoding))

    assert rows is None or rows == ROWS[: len(rows)]


@MANY
@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused_or_were_the_beginning_of_a_header(content: bytes) -> None:
    """A file that is not ours is left as it is."""
    rows = _recover(content)

    assert rows is None or (rows == [] and CSV.startswith(content))


@MANY
@given(st.integers(0, len(JSON)), st.binary(max_size=20), st.integers(0, 20))
def test_a_damaged_json_reads_as_the_truth_or_is_refused(at: int, what: bytes, cut: int) -> None:
    """Some bytes in the middle are replaced by others."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / JSON_NAME
        path.write_bytes(JSON[:at] + what + JSON[at + cut :])
        try:
            snapshot = read_document(path)
        except MirrorError:
            return
    assert len(snapshot.rows) <= len(ROWS) + what.count(b"{")


@pytest.mark.parametrize(
    "content",
    [b"[" * 10**5, b'{"schema_version": 1, "run": [], "config": {}, "environment": {}, "epochs": []}', b"\xff"],
)
def test_json_that_upsets_parsers_is_refused(tmp_path: Path, content: bytes) -> None:
    """Depth, other types, other encodings."""
    (tmp_path / JSON_NAME).write_bytes(content)

    with pytest.raises(MirrorError):
        read_document(tmp_path / JSON_NAME)


@MANY
@given(st.integers(0, 600), st.binary(max_size=20), st.integers(0, 20))
def test_a_damaged_cursor_is_one_of_ours_or_is_refused(at: int, what: bytes, cut: int) -> None:
    """It must not be trusted with other types than its own."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        DeliveryState(tracking_uri="sqlite:///x", run_id="a", run_key="b").save(directory)
        content = (directory / DELIVERY_STATE_NAME).read_bytes()
        (directory / DELIVERY_STATE_NAME).write_bytes(content[:at] + what + content[at + cut :])
        try:
            cursor = DeliveryState.load(directory)
        except MirrorError:
            return
        assert cursor is not None
        cursor.save(directory)


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_recovered_appended_to_and_read(tmp_path: Path) -> None:
    """In seconds, and the next row does not rewrite them."""
    rows = [EpochMetrics(epoch=n, loss_mean=1 / (n + 1), logged_at_ms=n + 1) for n in range(10**5)]
    (tmp_path / CSV_NAME).write_bytes(render_csv(rows) + b"100000,0.")

    began = time.perf_counter()
    mirror = Mirror(tmp_path).open()
    opened = time.perf_counter() - began
    began = time.perf_counter()
    mirror.write(EpochMetrics(epoch=10**5, logged_at_ms=10**6))
    appended = time.perf_counter() - began
    mirror.close(FINISHED)

    print(f"100,000 rows: opened in {opened:.1f} s, one more in {1e3 * appended:.1f} ms")
    assert [*EPOCHS[:3], 10**5] == [row.epoch for row in (*mirror.rows[:3], mirror.rows[-1])]
    assert len(mirror.rows) == 10**5 + 1
    assert appended < 1
