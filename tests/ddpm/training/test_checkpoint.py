"""Checkpoints: whole or not at all, and the newest good one read back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.ddpm.training.checkpoint import checkpoint_paths, load_newest, save_checkpoint


def save(directory: Path, *epochs: int) -> None:
    """Save a state for each epoch that contains its number."""
    for epoch in epochs:
        save_checkpoint(directory, epoch, {"weights": torch.full((1000,), float(epoch)), "config": {"mults": (1, 2)}})


def test_the_newest_is_read_back_and_only_two_are_kept(tmp_path: Path) -> None:
    """Tensors and plain values come back equal; nothing unfinished is left."""
    save(tmp_path / "new", 0, 1, 2, 3)
    found = load_newest(tmp_path / "new")

    assert found is not None
    assert (found.epoch, found.state["config"]) == (3, {"mults": (1, 2)})
    assert torch.equal(torch.full((1000,), 3.0), found.state["weights"])
    assert [p.name for p in sorted((tmp_path / "new").iterdir())] == ["checkpoint_000002.pt", "checkpoint_000003.pt"]


def test_there_may_be_none(tmp_path: Path) -> None:
    """An empty or absent folder is a new run, not an error."""
    assert load_newest(tmp_path) is None
    assert load_newest(tmp_path / "absent") is None


def cut(path: Path) -> None:
    """Cut the file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Flip one bit of a weight, which torch alone would not notice."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.tensor([2.0]).numpy().tobytes() * 8) + 400] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    """Leave a file of no bytes."""
    path.write_bytes(b"")


def foreign(path: Path) -> None:
    """Put another program's file there."""
    torch.save([1, 2, 3], path)


@pytest.mark.parametrize("damage", [cut, flip, empty, foreign])
def test_if_the_newest_is_damaged_the_one_before_it_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """With a warning that names the damaged file."""
    save(tmp_path, 1, 2)
    damage(tmp_path / "checkpoint_000002.pt")
    with caplog.at_level(logging.WARNING, logger="mlflow_ddpm"):
        found = load_newest(tmp_path)

    assert found is not None
    assert found.epoch == 1
    assert "checkpoint_000002.pt" in caplog.text


def test_if_all_are_damaged_training_does_not_start_over_silently(tmp_path: Path) -> None:
    """Hours of work are not thrown away unasked."""
    save(tmp_path, 1, 2)
    for path in checkpoint_paths(tmp_path):
        empty(path)

    with pytest.raises(MirrorError, match="all 2 are damaged; delete that folder"):
        load_newest(tmp_path)


def test_a_write_that_was_cut_off_leaves_the_others_alone(tmp_path: Path) -> None:
    """The unfinished file does not bear a checkpoint's name, and the next write takes its place."""
    save(tmp_path, 1, 2)
    (tmp_path / "checkpoint_000003.pt.tmp").write_bytes(b"half")
    before = load_newest(tmp_path)
    save(tmp_path, 3)

    assert before is not None
    assert before.epoch == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint_000002.pt", "checkpoint_000003.pt"]


def test_a_run_continued_from_an_earlier_epoch_drops_what_lay_beyond(tmp_path: Path) -> None:
    """Else the damaged or superseded file would be the newest again at the next start."""
    save(tmp_path, 4, 5)
    save(tmp_path, 3)

    assert [p.name for p in checkpoint_paths(tmp_path)] == ["checkpoint_000003.pt"]
