"""A file is the old one or the new one at any instant, on any file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mlflow_ddpm.core.atomic_file import flush_directory, remove_remains, replace_file


def test_a_file_system_that_cannot_flush_a_directory_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has been replaced by then: some network file systems refuse fsync, others the opening."""
    real_fsync, real_open = os.fsync, os.open

    def refuse_fsync(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").resolve().is_dir():
            raise OSError(errno.EINVAL, "refused")
        real_fsync(handle)

    def refuse_open(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "refused")
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "fsync", refuse_fsync)
    replace_file(tmp_path / "a", b"1")
    monkeypatch.setattr(os, "open", refuse_open)
    replace_file(tmp_path / "a", b"2")
    flush_directory(tmp_path / "missing")

    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"2"


def test_what_cannot_be_replaced_is_untouched_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    """A folder of that name, or a folder that is missing."""
    (tmp_path / "folder" / "x").mkdir(parents=True)
    for path in (tmp_path / "folder", tmp_path / "missing" / "a"):
        with pytest.raises(OSError, match=r"folder|missing"):
            replace_file(path, b"1")

    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("hard_links", [True, False])
def test_the_former_file_can_be_kept(hard_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """With hard links, and on file systems that have none."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links")

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)
    replace_file(tmp_path / "a", b"1")
    replace_file(tmp_path / "a", b"2", keep_as=tmp_path / "b")

    assert {"a": b"2", "b": b"1"} == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    """Of these names alone."""
    for name in (".a.12-0.tmp", ".b.12-0.tmp", "a"):
        (tmp_path / name).touch()
    remove_remains(tmp_path, ["a"])

    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.12-0.tmp", "a"]
