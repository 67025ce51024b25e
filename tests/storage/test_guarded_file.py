"""A file that another program changed meanwhile is noticed, and kept beside ours if it holds anything of its own."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mlflow_ddpm.storage.guarded_file import GuardedFile


def _write(file: GuardedFile, content: bytes, *, holds_only_ours: bool = False) -> None:
    file.replace(content, lambda _: holds_only_ours)


def test_a_file_is_ours_until_another_program_writes_it(tmp_path: Path) -> None:
    """By rename, as editors save, or in place."""
    file = GuardedFile(tmp_path / "a.csv")
    assert not file.is_ours()
    _write(file, b"ours")
    assert file.is_ours()
    (tmp_path / "new").write_bytes(b"ours")
    (tmp_path / "new").rename(file.path)
    assert not file.is_ours()
    file.adopt()
    assert file.is_ours()


@pytest.mark.parametrize(
    ("foreign", "only_ours", "kept"), [(b"theirs", False, True), (b"theirs", True, False), (b"ou", False, False)]
)
def test_a_changed_version_is_kept_if_it_holds_anything_of_its_own(
    foreign: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture, *, only_ours: bool, kept: bool
) -> None:
    """A beginning of ours, as a crash leaves it, does not; one line names where a version is kept."""
    file = GuardedFile(tmp_path / "a.csv")
    _write(file, b"ours")
    file.path.write_bytes(foreign)
    _write(file, b"ours and more", holds_only_ours=only_ours)

    assert file.path.read_bytes() == b"ours and more"
    assert [path.read_bytes() for path in tmp_path.glob("*.edited*")] == [foreign] * kept
    assert sum(record.levelno == logging.WARNING for record in caplog.records) == kept


def test_no_version_overwrites_another(tmp_path: Path) -> None:
    """They are numbered."""
    file = GuardedFile(tmp_path / "a.csv")
    for content in (b"1", b"2", b"3"):
        file.path.write_bytes(content)
        _write(file, b"ours")

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("a.csv", "a.edited-2.csv", "a.edited-3.csv", "a.edited.csv"),
    ]
