"""Where a file of a run is logged, and what a point is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.tracking.upload_items import folder_of, metric_name


@pytest.mark.parametrize(
    ("path", "folder"),
    [("out/a.png", "metrics"), ("out/paper/fonts/a.pdf", "metrics/paper/fonts"), ("elsewhere/a.txt", "metrics")],
)
def test_a_file_keeps_its_folder_below_the_output_directory(path: str, folder: str) -> None:
    """And stands among the others if it comes from elsewhere."""
    assert folder_of(Path(path), Path("out")) == folder


def test_a_point_is_named_by_metric_and_epoch() -> None:
    """As ``status`` lists what was set aside."""
    assert metric_name(Point("fid", 1.0, timestamp_ms=5, step=3)) == "metric fid, step 3"
