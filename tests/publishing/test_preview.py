"""The picture of a run's description: the newest samples, else the dashboard, at a size that fits a page."""

from __future__ import annotations

import logging
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mlflow_ddpm.publishing.publish import make_preview

if TYPE_CHECKING:
    import pytest


def put(name: str, width: int, height: int, grey: int) -> None:
    """Write a picture of one colour."""
    path = Path("out") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width), grey, np.uint8)).save(path)


def preview() -> tuple[int, int, int] | None:
    """Width, height and grey of what is written; None if nothing is."""
    content = make_preview(Path("out"))
    if content is None:
        return None
    with Image.open(BytesIO(content)) as image:
        return (*image.size, int(np.asarray(image)[0, 0]))


def test_the_newest_samples_come_first_and_small_ones_are_enlarged_by_whole_numbers() -> None:
    """Without samples it is the dashboard, without either nothing."""
    Path("out").mkdir()
    assert preview() is None
    put("training_dashboard.png", 3000, 1500, 10)
    assert preview() == (700, 350, 10)
    put("samples/samples_epoch_000001.png", 400, 300, 20)
    put("samples/samples_epoch_000003.png", 100, 60, 30)
    assert preview() == (300, 180, 30)


def test_a_picture_that_cannot_be_read_makes_way_for_the_next_one(caplog: pytest.LogCaptureFixture) -> None:
    """It may come from a store; one warning names it."""
    put("training_dashboard.png", 400, 300, 10)
    Path("out/samples").mkdir()
    Path("out/samples/samples_epoch_000001.png").write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        assert preview() == (400, 300, 10)
    assert "samples_epoch_000001.png cannot be shown in the run's description" in caplog.text
