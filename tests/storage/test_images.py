"""Logged images: their names, their files, their bytes."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.storage.images import encode_png, image_from_path, image_path, images_on_disk


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (2, 3, 4), (1, 1), (5000, 2)])
def test_an_image_reads_back_as_its_pixels(shape: tuple[int, ...]) -> None:
    """Grey, colour, with transparency; as small and as long as they come."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    assert np.array_equal(np.asarray(Image.open(BytesIO(encode_png(pixels)))), pixels)


@pytest.mark.parametrize(
    "image",
    [np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8), "x", None],
)
def test_what_is_no_image_is_refused_with_what_came(image: Any) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match="must be uint8 of shape"):
        encode_png(image)


@pytest.mark.parametrize("mode", ["P", "CMYK", "LAB", "HSV", "1", "F"])
def test_a_picture_of_pil_in_other_colours_is_refused(mode: str) -> None:
    """Its numbers alone would pass for grey, RGB or RGBA."""
    with pytest.raises(UsageError, match=f"mode {mode}; convert it to RGB first"):
        encode_png(Image.new(mode, (4, 4)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "epoch"), [("a/b", 0), ("..", 0), ("", 0), ("x" * 101, 0), ("a", -1), ("a", True)])
def test_a_name_that_would_leave_the_folder_is_refused(name: str, epoch: int, tmp_path: Path) -> None:
    """As is an epoch that is none."""
    with pytest.raises(UsageError):
        image_path(tmp_path, name, epoch)


def test_images_on_disk_are_those_of_our_names_and_no_links(tmp_path: Path) -> None:
    """Foreign files, folders, fifos and links in the folder are passed over."""
    ours = [image_path(tmp_path, "grid", epoch) for epoch in (0, 12)]
    folder = ours[0].parent
    folder.mkdir()
    for path in (*ours, folder / "mine.png", folder / "grid_epoch_1.png", folder / "notes.txt"):
        path.write_bytes(b"x")
    image_path(tmp_path, "folder", 0).mkdir()
    os.mkfifo(image_path(tmp_path, "fifo", 0))
    image_path(tmp_path, "link", 0).symlink_to(tmp_path.parent)
    image_path(tmp_path, "secret", 0).symlink_to(folder / "notes.txt")

    assert ours == [image.path for image in images_on_disk(tmp_path)]
    assert ours[1:] == [image.path for image in images_on_disk(tmp_path, but=[ours[0].name])]
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert images_on_disk(tmp_path) == []


def test_an_image_has_the_time_of_its_file(tmp_path: Path) -> None:
    """So that it has the same one whenever it is sent."""
    path = image_path(tmp_path, "grid", 3)
    path.parent.mkdir()
    path.write_bytes(b"x")
    os.utime(path, ns=(0, 1_700_000_000_123_000_000))
    image = image_from_path(path)

    assert (image.name, image.epoch, image.timestamp_ms) == ("grid", 3, 1_700_000_000_123)
    with pytest.raises(UsageError, match="NAME_epoch_NUMBER"):
        image_from_path(path.with_name("x.png"))
