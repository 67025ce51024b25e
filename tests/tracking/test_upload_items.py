"""Where a file of a run is logged, and what a point is called."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.images import LoggedImage
from mlflow_ddpm.tracking.sync import sync_directory
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


@pytest.mark.slow
@pytest.mark.parametrize("is_freed", [True, False])
def test_a_file_that_no_sync_will_find_is_named_at_the_close(
    *,
    is_freed: bool,
    tmp_path: Path,
    sqlite_uri: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The store is away. A picture that the disk refused is put there if it takes it now; other folders stay out."""
    tries: list[str] = []
    put_on_disk = LoggedImage.put_on_disk

    def counted(image: LoggedImage) -> bool:
        tries.append(image.name)
        return put_on_disk(image)

    monkeypatch.setattr(LoggedImage, "put_on_disk", counted)
    out, outside = tmp_path / "out", tmp_path / "note.txt"
    outside.write_text("text")
    tracker = MetricsTracker(out, tracking_uri="http://127.0.0.1:9")
    tracker.start_epoch(0)
    tracker.log_batch(1.0, 0.1, 1)
    tracker.end_epoch()
    (out / "samples").write_text("no folder")  # as a disk that refuses
    tracker.log_image("grid", np.zeros((4, 4), np.uint8), 0)
    if is_freed:
        (out / "samples").unlink()
    tracker.log_artifact(outside)
    with caplog.at_level(logging.WARNING):
        tracker.close(timeout=0.5)

    lost = {str(outside)} if is_freed else {str(outside), "samples/grid_epoch_000000.png"}
    state = DeliveryState.load(out)
    assert state is not None
    assert lost == state.set_aside.keys()
    assert tries == ["grid"]
    assert "all but what is set aside is in" in caplog.text
    assert "is in MLflow (1 row), without what it does not take" in sync_directory(out, tracking_uri=sqlite_uri)
