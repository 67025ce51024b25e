"""Files that other programs edit, replace, delete or move during a training: the next epoch finds all of them again."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.directory_lock import is_locked
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.tracking.upload_items import final_files

KILLED = RunOutcome("KILLED")
CHANGED = b"epoch,loss\n0,somebody's\n"


def _row(epoch: int, loss: float | None = None) -> EpochMetrics:
    return EpochMetrics(epoch=epoch, loss_mean=loss or 1 / (epoch + 1), logged_at_ms=1000 + epoch)


def _epochs(directory: Path) -> list[int]:
    with (directory / CSV_NAME).open(newline="", encoding="utf-8") as file:
        return [int(cells["epoch"]) for cells in csv.DictReader(file)]


def _json_epochs(directory: Path) -> list[int]:
    return [row["epoch"] for row in json.loads((directory / JSON_NAME).read_bytes())["epochs"]]


def _remove(directory: Path) -> None:
    """Remove a directory, though the JSON's thread may make a file in it meanwhile."""
    while directory.exists():
        shutil.rmtree(directory, ignore_errors=True)


def _save_by_rename(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def _edit_by_rename(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"\n1,0.5", b"\n1,0.7"))
    other.replace(path)


def _edit_in_place(path: Path) -> None:
    content = path.read_bytes().replace(b"\n1,0.5", b"\n1,0.7")
    with path.open("r+b") as file:
        file.write(content)


def _sed(path: Path) -> None:
    subprocess.run(["sed", "-i", "s/^1,0.5/1,0.7/", str(path)], check=True)


def _truncate(path: Path) -> None:
    os.truncate(path, 0)


def _truncate_in_a_row(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def _append_garbage(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"garbage\n")


def _append_without_line_feed(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"99,1.0,")


def _delete(path: Path) -> None:
    path.unlink()


def _older_copy(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))


def _foreign(path: Path) -> None:
    path.unlink()
    path.write_bytes(CHANGED)


def _link(path: Path) -> None:
    path.with_name("target").write_bytes(CHANGED)
    path.unlink()
    path.symlink_to("target")


def _moved_and_linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere.csv"))
    path.symlink_to("elsewhere.csv")


def _dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _huge(path: Path) -> None:
    path.unlink()
    path.touch()
    os.truncate(path, 1 << 32)


LOSE_NOTHING_FOREIGN = [
    _save_by_rename,
    _truncate,
    _truncate_in_a_row,
    _delete,
    _older_copy,
    _dangling_link,
    _moved_and_linked,
]
HOLD_FOREIGN = [
    _edit_by_rename,
    _edit_in_place,
    _sed,
    _append_garbage,
    _append_without_line_feed,
    _foreign,
    _link,
    _folder,
    _fifo,
    _huge,
]


@pytest.mark.parametrize("change", [*LOSE_NOTHING_FOREIGN, *HOLD_FOREIGN])
@pytest.mark.parametrize("name", [CSV_NAME, JSON_NAME])
def test_a_file_that_another_program_changed_has_every_epoch_at_the_next(
    change: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    """Whatever was done to it."""
    mirror = Mirror(tmp_path).open()
    for epoch in range(3):
        mirror.write(_row(epoch))
    mirror.flush()
    change(tmp_path / name)
    mirror.write(_row(3))
    after_the_next = _epochs(tmp_path)
    is_whole = mirror.flush()
    mirror.write(_row(4))

    assert after_the_next == [0, 1, 2, 3]
    assert is_whole
    assert mirror.close(KILLED)
    assert _epochs(tmp_path) == _json_epochs(tmp_path) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("change", HOLD_FOREIGN)
def test_a_changed_csv_is_kept_beside_ours_and_one_line_names_it(
    change: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's edit is not thrown away, and ours wins."""
    mirror = Mirror(tmp_path).open()
    for epoch in range(3):
        mirror.write(_row(epoch))
    change(tmp_path / CSV_NAME)
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        mirror.write(_row(3))
        mirror.write(_row(4))
    mirror.close(KILLED)

    assert os.path.lexists(tmp_path / "training_metrics.edited.csv")
    assert ["training_metrics.edited.csv" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("change", LOSE_NOTHING_FOREIGN)
def test_a_changed_csv_without_data_of_its_own_is_not_kept(change: Callable[[Path], None], tmp_path: Path) -> None:
    """A stale copy, a cut one, the same content under a new inode."""
    mirror = Mirror(tmp_path).open()
    for epoch in range(3):
        mirror.write(_row(epoch))
    change(tmp_path / CSV_NAME)
    mirror.write(_row(3))
    mirror.close(KILLED)

    assert not list(tmp_path.glob("*.edited*"))


def test_two_different_edits_are_both_kept(tmp_path: Path) -> None:
    """Each under a name of its own."""
    mirror = Mirror(tmp_path).open()
    mirror.write(_row(0))
    for number in (1, 2):
        (tmp_path / CSV_NAME).write_bytes(b"epoch\n%d\n" % (50 + number))
        mirror.write(_row(number))
    mirror.close(KILLED)

    assert (tmp_path / "training_metrics.edited.csv").read_bytes() == b"epoch\n51\n"
    assert (tmp_path / "training_metrics.edited-2.csv").read_bytes() == b"epoch\n52\n"


@pytest.mark.parametrize("away", [1, 3])
@pytest.mark.parametrize("fate", ["moved", "deleted", "back", "a file", "back under ours"])
def test_a_directory_that_goes_has_every_epoch_again(fate: str, away: int, tmp_path: Path) -> None:
    """Moved or deleted for any number of epochs, put back or not, something else in its place."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    mirror = Mirror(out).open()
    mirror.write(_row(0))
    mirror.flush()
    _remove(out) if fate == "deleted" else out.rename(elsewhere)
    if fate == "a file":
        out.write_text("in the way")
    for epoch in range(1, 1 + away):
        mirror.write(_row(epoch))
    if fate == "a file":
        out.unlink()
    elif fate == "back":
        _remove(out)
        elsewhere.rename(out)
    elif fate == "back under ours":  # a disk that is mounted again
        out.rename(tmp_path / "meanwhile")
        elsewhere.rename(out)
    mirror.write(_row(1 + away))

    assert list(range(2 + away)) == _epochs(out)
    assert is_locked(out)
    assert mirror.close(KILLED)
    assert list(range(2 + away)) == _json_epochs(out)
    assert not is_locked(out)


def test_a_directory_whose_name_another_training_took_is_left_to_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows of the first stay in memory, and at the close the log says where they are."""
    out = tmp_path / "out"
    mirror = Mirror(out).open()
    mirror.write(_row(0))
    out.rename(tmp_path / "moved")
    code = f"""
from pathlib import Path
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.tracking.upload_items import final_files
mirror = Mirror(Path({str(out)!r})).open()
mirror.write(EpochMetrics(epoch=7, logged_at_ms=1))
print("ready", flush=True)
input()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
            mirror.write(_row(1))
            mirror.flush()
            is_safe = mirror.close(KILLED)
        other.kill()

    assert not is_safe
    assert _epochs(out) == [7]
    rescued = next(word for word in caplog.text.split() if word.startswith("/") and word.endswith(f"{CSV_NAME}:"))
    assert _epochs(Path(rescued[:-1]).parent) == [0, 1]
    shutil.rmtree(Path(rescued[:-1]).parent)


@contextlib.contextmanager
def _no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def _no_writing() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("fault", [_no_descriptors, _no_writing])
@pytest.mark.parametrize("change", [None, _delete, _truncate])
def test_a_system_that_gives_nothing_is_waited_for(
    fault: Callable[[], contextlib.AbstractContextManager[None]], change: Callable[[Path], None] | None, tmp_path: Path
) -> None:
    """No descriptor or no byte for three epochs, with the file lost beside: the next epoch has them all."""
    mirror = Mirror(tmp_path).open()
    mirror.write(_row(0))
    with fault():
        for epoch in (1, 2, 3):
            mirror.write(_row(epoch))
    if change:
        change(tmp_path / CSV_NAME)
    mirror.write(_row(4))

    assert _epochs(tmp_path) == [0, 1, 2, 3, 4]
    assert mirror.close(KILLED)
    assert _json_epochs(tmp_path) == [0, 1, 2, 3, 4]


def _move_there_and_back(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


@pytest.mark.parametrize(
    "change", [_truncate, _truncate_in_a_row, _append_garbage, _save_by_rename, _delete, _move_there_and_back]
)
def test_a_change_while_a_row_is_flushed_is_not_taken_for_ours(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flush takes milliseconds: time for another program. The row is there once, at the next at the latest."""
    out, flush, flushes = tmp_path / "out", os.fsync, itertools.count()
    mirror = Mirror(out).open()
    for epoch in range(3):
        mirror.write(_row(epoch))

    def changed(descriptor: int) -> None:
        flush(descriptor)
        if next(flushes) == 0:
            change(out / CSV_NAME)

    with monkeypatch.context() as patch:
        patch.setattr("mlflow_ddpm.storage.csv_file.os.fsync", changed)
        mirror.write(_row(3))
    if change is _move_there_and_back:
        _remove(out)
        (tmp_path / "elsewhere").rename(out)
    else:
        assert _epochs(out) == [0, 1, 2, 3]
    mirror.write(_row(4))

    assert _epochs(out) == [0, 1, 2, 3, 4]
    assert mirror.close(KILLED)


@contextlib.contextmanager
def _no_rights(directory: Path) -> Iterator[None]:
    if os.geteuid():
        directory.chmod(0)
        yield
        directory.chmod(0o755)
        return
    os.seteuid(65534)  # for whom the tests' folder is closed
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_close_without_the_right_to_look_at_the_directory_says_where_the_rows_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised, neither by the mirror nor by the search for what is logged at the end."""
    mirror = Mirror(tmp_path / "out").open()
    mirror.write(_row(0))
    with _no_rights(tmp_path / "out"), caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        assert final_files(tmp_path / "out") == []
        assert not mirror.close(KILLED)

    assert "could not be written; everything (1 row) is in " in caplog.text
    rescued = Path(re.findall(r"is in (\S+): copy it", caplog.text)[0])
    assert [_epochs(rescued.parent), _epochs(tmp_path / "out")] == [[0], [0]]
    shutil.rmtree(rescued.parent)


def test_a_close_that_cannot_write_says_where_the_rows_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is called safe that was not read back."""
    out = tmp_path / "out"
    mirror = Mirror(out).open()
    mirror.write(_row(0))
    mirror.flush()
    _remove(out)
    out.write_text("in the way")
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        mirror.write(_row(1))
        is_safe = mirror.close(KILLED)

    rescued = next(word for word in caplog.text.split() if word.endswith(f"{CSV_NAME}:"))
    assert not is_safe
    assert _epochs(Path(rescued[:-1]).parent) == [0, 1]
    assert out.read_text() == "in the way"
    shutil.rmtree(Path(rescued[:-1]).parent)


def _delete_hidden(directory: Path) -> None:
    for path in directory.glob(".*"):
        path.unlink()


def _recreate(directory: Path) -> None:
    _remove(directory)
    directory.mkdir()


@pytest.mark.parametrize("fate", [_delete_hidden, _remove, _recreate])
def test_what_goes_after_the_last_row_is_there_again_at_the_close(
    fate: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the CSV was whole and the lock alone went: the JSON gets the run's end."""
    mirror = Mirror(tmp_path / "out").open()
    for epoch in range(3):
        mirror.write(_row(epoch))
    fate(mirror.directory)

    assert mirror.close(RunOutcome("FINISHED"))
    assert [0, 1, 2] == _epochs(mirror.directory) == _json_epochs(mirror.directory)
    assert json.loads((mirror.directory / JSON_NAME).read_bytes())["run"]["status"] == "FINISHED"
    assert "could not be written" not in caplog.text


def test_a_stale_json_is_never_called_current(tmp_path: Path) -> None:
    """Neither one that could not be written, nor one that another program put there, nor one after the close."""
    mirror = Mirror(tmp_path).open()
    mirror.write(_row(0))
    mirror.flush()
    with _no_writing():
        mirror.write(_row(1))
        could_write = mirror.flush()
        current = mirror.current_files()
    mirror.flush()
    at_last = mirror.current_files()
    _older_copy(tmp_path / JSON_NAME)

    assert not could_write
    assert current == []
    assert at_last == [tmp_path / CSV_NAME, tmp_path / JSON_NAME]
    assert mirror.current_files() == [tmp_path / CSV_NAME]
    mirror.close(KILLED)
    assert mirror.flush() is False


def test_a_forked_child_changes_nothing(tmp_path: Path) -> None:
    """No row, no JSON, no lock let go, whatever it calls."""
    mirror = Mirror(tmp_path).open()
    mirror.write(_row(0))
    mirror.flush()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            mirror.write(_row(1, loss=9.0))
            mirror.update_run({"status": "wrong"})
            mirror.flush()
            mirror.close(KILLED)
            mirror.abandon()
        os._exit(0)
    os.waitpid(child, 0)

    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="this same process"):
        Mirror(tmp_path).open()
    mirror.write(_row(1))
    assert mirror.close(KILLED)
    assert _epochs(tmp_path) == _json_epochs(tmp_path) == [0, 1]


def test_files_stay_current_as_of_a_revision_when_a_row_is_written_meanwhile(tmp_path: Path) -> None:
    """The training writes its next row between the flush and the look at the files: no disk refused anything."""
    mirror = Mirror(tmp_path).open()
    mirror.write(_row(0))
    for epoch in range(1, 30):
        revision = mirror.revision
        mirror.flush()
        mirror.write(_row(epoch))

        assert mirror.current_files(revision) == [tmp_path / CSV_NAME, tmp_path / JSON_NAME]
    mirror.close(KILLED)
