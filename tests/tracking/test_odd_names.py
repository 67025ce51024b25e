"""Names of params, tags, metrics, runs and experiments that a store cannot keep hold nothing else up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from support.common import slow
from support.store_faults import front_of, points_in_store, points_on_disk

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.tracking.sync import sync_directory


def _epoch(tracker: MetricsTracker, number: int, **extra: float) -> None:
    tracker.start_epoch(number)
    tracker.log_batch(1.0 / (number + 1), lr=0.1, batch_size=4)
    tracker.end_epoch(extra=extra)


def test_a_file_store_keeps_what_it_has_names_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of more bytes than a file's, and names that are a file and a folder at once, are mended or set aside."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    config = {"ü" * 240: 1, "fine": 2, "c": 1, "c/d": 3}
    tracker = MetricsTracker("out", tracking_uri=uri, config=config, tags={"ö" * 240: "x", "t/u": "1", "t": "2"})
    _epoch(tracker, 0, **{"é" * 240: 1.0, "fine": 2.0})
    tracker.flush()
    assert tracker.has_all_rows
    MlflowClient(uri).log_metric(str(tracker.run_id), "g", 1.0)  # the user's own
    _epoch(tracker, 1, **{"g/h": 1.0})
    tracker.close(timeout=30)

    run = MlflowClient(uri).get_run(str(tracker.run_id))
    state = DeliveryState.load(Path("out"))
    assert state
    assert run.info.status == "FINISHED"
    assert (run.data.params["fine"], run.data.params["ü" * 125]) == ("2", "1")
    assert run.data.tags["ö" * 125] == "x"
    assert set(state.set_aside) == {"param c/d", "tag t", f"metric {'é' * 240}, step 0", "metric g/h, step 1"}
    assert run.data.metrics["fine"] == 2.0
    loss = points_on_disk("out")["loss_mean"]
    assert set(points_in_store(uri, tracker.run_id)["loss_mean"]) == set(loss)  # it keeps one that is sent twice


def test_an_extra_that_does_not_go_together_with_one_of_an_earlier_epoch_is_refused(sqlite_uri: str) -> None:
    """A later process could not read the file that holds both; after a resume the same names count."""
    tracker = MetricsTracker("out")
    _epoch(tracker, 0, **{"f/a": 1.0})
    tracker.start_epoch(1)
    tracker.log_batch(1.0)
    with pytest.raises(UsageError, match="cannot be both a metric and a folder"):
        tracker.end_epoch(extra={"f": 1.0})
    tracker.end_epoch(extra={"f/b": 1.0})
    tracker.close()
    with MetricsTracker("out", resume=True) as again:
        again.start_epoch(2)
        again.log_batch(1.0)
        with pytest.raises(UsageError, match="cannot be both a metric and a folder"):
            again.end_epoch(extra={"f/b/c": 1.0})
        again.end_epoch(extra={"f/b": 2.0, "g": 1.0})
        assert again.next_epoch == 3


@pytest.mark.parametrize(
    "names",
    [
        {"run_name": "x" * 100_000},
        {"run_name": "\ud800 \0\n"},
        {"experiment_name": "\ud800"},
        {"experiment_name": "a\0b"},
        {"tags": {"mlflow.parentRunId": "0" * 32, "": "x", "\udfff" * 300: "y"}},
    ],
)
def test_a_run_begins_whatever_it_is_called(names: dict[str, Any], sqlite_uri: str) -> None:
    """What MLflow would refuse in a name is replaced or cut."""
    tracker = MetricsTracker("out", **names)
    _epoch(tracker, 0)

    assert tracker.close(timeout=30)


@pytest.mark.parametrize("names", [{"run_name": 7}, {"experiment_name": b"x"}, {"run_id": 5}])
def test_a_name_that_is_no_text_is_one_line(names: dict[str, Any], sqlite_uri: str) -> None:
    """It names the argument."""
    with pytest.raises(UsageError, match=f"{next(iter(names))} must be a string, got "):
        MetricsTracker("out", **names)


@pytest.mark.parametrize("image", [[[1], [2, 3]], object(), None, np.zeros((0, 5), np.uint8), np.full((2, 2), np.nan)])
def test_a_picture_that_is_no_array_of_bytes_is_one_line(image: Any, sqlite_uri: str) -> None:
    """Whatever NumPy makes of it."""
    with MetricsTracker("out") as tracker, pytest.raises(UsageError, match="a picture must be"):
        tracker.log_image("grid", image, 0)


@pytest.mark.parametrize("mood", [slow("garbage"), 413])
def test_a_server_that_takes_no_files_is_one_warning(
    mood: str | int, server_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A login page that answers "200 OK" has taken nothing; three pictures that are refused have one cause."""
    with front_of(server_uri) as front:
        tracker = MetricsTracker("out", tracking_uri=front.url, experiment_name="files over HTTP")
        _epoch(tracker, 0)
        assert tracker.flush(60)
        front.fail_files(mood)
        for number in range(3):
            tracker.log_image("grid", np.zeros((4, 4), np.uint8), number)
        assert not tracker.flush(5)
        lines = [
            r.getMessage() for r in caplog.records if "not sent" in r.getMessage() or "artifacts" in r.getMessage()
        ]
        front.fail_files("pass")
        tracker.close(timeout=60)
        sync_directory(Path("out"), timeout=60, tracking_uri=server_uri)

    files = MlflowClient(server_uri).list_artifacts(str(tracker.run_id), "metrics/samples")
    assert len(lines) == 1
    assert len(files) == 3
