"""What a new process makes of the files that an earlier one left: the fuller copy counts, by its epochs."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_ddpm.core.errors import MirrorError, UsageError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.layout import CSV_NAME, DELIVERY_STATE_NAME, JSON_NAME
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.storage.recovery import merge_rows, read_rows

KILLED = RunOutcome("KILLED")


def _row(epoch: int, logged_at_ms: int | None = None) -> EpochMetrics:
    return EpochMetrics(epoch=epoch, loss_mean=1 / (epoch + 1), logged_at_ms=logged_at_ms or 1000 + epoch)


def _record(directory: Path, *rows: EpochMetrics) -> None:
    mirror = Mirror(directory).open()
    for row in rows:
        mirror.write(row)
    mirror.close(KILLED)


def _epochs(directory: Path) -> list[int]:
    with (directory / CSV_NAME).open(newline="", encoding="utf-8") as file:
        return [int(cells["epoch"]) for cells in csv.DictReader(file)]


def _json_epochs(directory: Path) -> list[int]:
    return [row["epoch"] for row in json.loads((directory / JSON_NAME).read_bytes())["epochs"]]


def _delete(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _old_csv(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))


def _torn_csv(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 5)


def _header_alone(path: Path) -> None:
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def _old_json(path: Path) -> None:
    document = json.loads(path.read_bytes())
    del document["epochs"][2:]
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        (CSV_NAME, _delete),
        (CSV_NAME, _empty),
        (CSV_NAME, _old_csv),
        (CSV_NAME, _torn_csv),
        (CSV_NAME, _header_alone),
        (JSON_NAME, _delete),
        (JSON_NAME, _empty),
        (JSON_NAME, _old_json),
    ],
)
def test_what_one_file_lost_is_restored_from_the_other(name: str, loss: Callable[[Path], None], tmp_path: Path) -> None:
    """As soon as the directory is opened, and with the dates turned round."""
    _record(tmp_path, *map(_row, range(5)))
    loss(tmp_path / name)
    if (tmp_path / name).exists():
        os.utime(tmp_path / name, (2e9, 2e9))  # the emptier copy is the newer one

    assert [row.epoch for row in read_rows(tmp_path)] == [0, 1, 2, 3, 4]
    mirror = Mirror(tmp_path).open()
    assert _epochs(tmp_path) == [0, 1, 2, 3, 4]
    mirror.write(_row(5))
    mirror.close(KILLED)

    assert _epochs(tmp_path) == _json_epochs(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_one_line_says_what_was_restored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And an untouched directory is worth none."""
    _record(tmp_path, *map(_row, range(5)))
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        Mirror(tmp_path).open().close(KILLED)
        silent = caplog.messages[:]
        (tmp_path / CSV_NAME).unlink()
        Mirror(tmp_path).open().close(KILLED)

    assert silent == []
    assert len(caplog.messages) == 1
    assert f"had 0 of 5 rows; the others are restored from {JSON_NAME}" in caplog.text


def test_rows_that_a_resume_superseded_stay_superseded(tmp_path: Path) -> None:
    """A JSON that lags behind the CSV, as a kill leaves it, is no fuller copy."""
    _record(tmp_path, *map(_row, range(6)))
    stale = (tmp_path / JSON_NAME).read_bytes()
    for epochs in ([3], [0], [2, 3]):
        _record(tmp_path, *(_row(epoch, 10_000 + 100 * len(epochs) + 10 * epochs[0] + epoch) for epoch in epochs))
        expected = _epochs(tmp_path)
        (tmp_path / JSON_NAME).write_bytes(stale)

        assert [row.epoch for row in read_rows(tmp_path)] == expected
        Mirror(tmp_path).open().close(KILLED)
        assert _epochs(tmp_path) == _json_epochs(tmp_path) == expected


def test_files_of_two_runs_are_not_mixed(tmp_path: Path) -> None:
    """They share no epoch's time; both stay as they are."""
    _record(tmp_path, *map(_row, range(3)))
    content = (tmp_path / CSV_NAME).read_bytes()
    (tmp_path / CSV_NAME).unlink()
    (tmp_path / JSON_NAME).unlink()
    _record(tmp_path, *(_row(epoch, 9000 + epoch) for epoch in range(5)))
    (tmp_path / CSV_NAME).write_bytes(content)

    with pytest.raises(MirrorError, match="two different runs, of 3 and 5 rows; move one away"):
        Mirror(tmp_path).open()
    with pytest.raises(MirrorError, match="two different runs"):
        read_rows(tmp_path)
    assert (tmp_path / CSV_NAME).read_bytes() == content
    assert _json_epochs(tmp_path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        (CSV_NAME, "has 3 rows, which are restored once it is moved"),
        (JSON_NAME, "written again from"),
    ],
)
def test_a_damaged_file_is_refused_with_the_way_to_restore_it(name: str, remedy: str, tmp_path: Path) -> None:
    """And the remedy works."""
    _record(tmp_path, *map(_row, range(3)))
    damaged = (tmp_path / name).read_bytes().replace(b"0.5", b"0x5")
    (tmp_path / name).write_bytes(damaged[: len(damaged) - (name == JSON_NAME) * 9])
    with pytest.raises(MirrorError, match=remedy):
        Mirror(tmp_path).open()
    (tmp_path / name).rename(tmp_path / "away")
    Mirror(tmp_path).open().close(KILLED)

    assert _epochs(tmp_path) == _json_epochs(tmp_path) == [0, 1, 2]


def test_the_csv_wins_where_both_have_an_epoch() -> None:
    """It is the journal."""
    ours, other = _row(0), EpochMetrics(epoch=0, loss_mean=9.0, logged_at_ms=1000)

    assert merge_rows([ours], [other, _row(1)], Path("x")) == [ours, _row(1)]


def test_a_run_whose_files_are_lost_takes_rows_from_elsewhere(tmp_path: Path) -> None:
    """The tracking store has them; they are durable before the next epoch."""
    mirror = Mirror(tmp_path).open()
    mirror.restore([_row(0), _row(1)], "MLflow")

    assert _epochs(tmp_path) == [0, 1]
    mirror.write(_row(2))
    mirror.close(KILLED)
    assert _epochs(tmp_path) == _json_epochs(tmp_path) == [0, 1, 2]


def test_a_finished_directory_is_moved_aside_whole(tmp_path: Path) -> None:
    """With everything that lies in it; the next one gets the next number."""
    out = tmp_path / "out"
    for number in (1, 2):
        _record(out, *map(_row, range(number)))
        (out / "mine.pt").write_text(str(number))
        mirror = Mirror(out).open()

        assert mirror.move_aside() == tmp_path / f"out-{number}"
        assert list(range(number)) == _epochs(tmp_path / f"out-{number}")
        assert (tmp_path / f"out-{number}" / "mine.pt").read_text() == str(number)
        assert list(out.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out-1", "out-2"]


def test_a_link_to_a_finished_directory_points_to_an_empty_one_afterwards(tmp_path: Path) -> None:
    """The disk that the user chose stays the one that is written to."""
    _record(tmp_path / "disk" / "out", _row(0))
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")

    assert Mirror(tmp_path / "link").open().move_aside() == tmp_path / "disk" / "out-1"
    _record(tmp_path / "link", _row(0), _row(1))
    assert _epochs(tmp_path / "disk" / "out") == [0, 1]
    assert _epochs(tmp_path / "disk" / "out-1") == [0]


@pytest.mark.parametrize("where", [".", "below"])
def test_the_directory_that_a_program_runs_in_is_not_moved(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the two ways out; nothing in it changes."""
    _record(tmp_path, _row(0))
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / where)

    with pytest.raises(UsageError, match=r"cannot be moved aside .*; choose another output_dir, or pass resume=True"):
        Mirror(tmp_path).open().move_aside()
    assert _epochs(tmp_path) == [0]
    Mirror(tmp_path).open().close(KILLED)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")],
    ids=["pipe", "folder", "device"],
)
@pytest.mark.parametrize("name", [CSV_NAME, DELIVERY_STATE_NAME])
def test_what_is_no_plain_file_is_refused_at_once(make: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    """A pipe would be waited for, and a device read, for ever."""
    _record(tmp_path, _row(0))
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)

    with pytest.raises(MirrorError, match=r"no plain file; expected|a symbolic link, which is not followed"):
        read_rows(tmp_path)
    if name == DELIVERY_STATE_NAME:
        with pytest.raises(MirrorError, match="no plain file; move it away"):
            DeliveryState.load(tmp_path)
    else:
        with pytest.raises(MirrorError, match="no plain file; move it away"):
            Mirror(tmp_path).open()


@pytest.mark.parametrize("name", [CSV_NAME, JSON_NAME])
def test_a_link_to_itself_is_replaced(name: str, tmp_path: Path) -> None:
    """Nothing is behind it; the other file has every epoch."""
    _record(tmp_path, _row(0), _row(1))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(name)

    _record(tmp_path, _row(2))

    assert _epochs(tmp_path) == _json_epochs(tmp_path) == [0, 1, 2]


def _as_excel_saves(content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")


def _with_quotes(content: bytes) -> bytes:
    first, _, rest = content.partition(b"\n")
    return b",".join(b'"' + name + b'"' for name in first.split(b",")) + b"\n" + rest


def _with_blank_lines(content: bytes) -> bytes:
    return content + b"\n\n"


@pytest.mark.parametrize("save", [_as_excel_saves, _with_quotes, _with_blank_lines])
def test_a_csv_that_a_spreadsheet_saved_is_continued_in_our_form(
    save: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """Its numbers are the same; a byte order mark, quotes and blank lines go at the next write."""
    _record(tmp_path, _row(0), _row(1))
    path = tmp_path / CSV_NAME
    path.write_bytes(save(path.read_bytes()))

    _record(tmp_path, _row(2))

    assert _epochs(tmp_path) == [0, 1, 2]
    assert not {b"\r", b'"'} & {bytes([byte]) for byte in path.read_bytes()}
