"""One frame, whatever it is read from."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from mlflow_ddpm import MetricsTracker, read_history
from mlflow_ddpm.analysis.frame import frame_from_rows, numbers, rows_from_frame
from mlflow_ddpm.core.errors import HistoryError, MirrorError, StoreError
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics

AWKWARD = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623155e308, -1e-17, math.nan, math.inf, -math.inf, -0.0, 2.0**53 + 2]


def _record(uri: str, values: list[float]) -> MetricsTracker:
    """Record a run whose extra ``x`` takes each value; odd epochs do not measure ``y``; epoch 3 is missing."""
    tracker = MetricsTracker("out", tracking_uri=uri)
    for epoch, value in enumerate(values):
        if epoch != 3:
            tracker.start_epoch(epoch)
            tracker.log_batch(value, lr=0.1 * epoch, grad_norm=abs(value))
            tracker.end_epoch(extra={"x": value, "y": None if epoch % 2 else float(epoch)})
    return tracker


def test_every_source_gives_the_same_frame_to_the_last_bit(store_uri: str) -> None:
    """Tracker, run id, runs:/ URI, directory, CSV and JSON; NaN, infinities and what was not measured included."""
    with _record(store_uri, AWKWARD) as tracker:
        live = read_history(tracker)

    sources: list[Any] = [
        tracker,
        "out",
        Path("out"),
        "out/training_metrics.csv",
        Path("out/training_metrics.json"),
        live,
    ]
    frames = [read_history(source) for source in sources]
    frames += [read_history(f"{prefix}{tracker.run_id}", tracking_uri=store_uri) for prefix in ("", "runs:/")]

    for frame in frames:
        pd.testing.assert_frame_equal(live, frame, check_exact=True)
        for name in ("x", "y", "loss_mean"):
            assert live[name].isna().tolist() == frame[name].isna().tolist()


def test_the_frame_has_one_row_per_epoch_and_every_column_of_the_table(sqlite_uri: str) -> None:
    """In the table's order, extras by name after it; a missing epoch stays missing."""
    with _record(sqlite_uri, AWKWARD[:6]) as tracker:
        frame = read_history(tracker)

    assert [*(m.name for m in METRICS), "x", "y", "logged_at_ms"] == list(frame.columns)
    assert [0, 1, 2, 4, 5] == frame["epoch"].tolist()


def test_not_measured_is_na_and_not_finite_is_a_value(sqlite_uri: str) -> None:
    """The three kinds of no number stay apart."""
    with _record(sqlite_uri, [1.0, math.inf, math.nan]) as tracker:
        pass
    frame = read_history(str(tracker.run_id))

    assert [False, False, False] == frame["x"].isna().tolist()
    assert [False, True, False] == frame["y"].isna().tolist()
    assert frame["x"].tolist()[1] == math.inf
    assert math.isnan(frame["x"].tolist()[2])
    assert bool(frame["gpu_peak_mb"].isna().all())


def test_resumed_epochs_are_there_once_and_the_last_written_wins(store_uri: str) -> None:
    """In the store both lives stand; the history takes the second, and drops what the second never reached again."""
    with _record(store_uri, [1.0, 2.0, 3.0]):
        pass
    with MetricsTracker("out", tracking_uri=store_uri, resume=True) as tracker:
        tracker.start_epoch(1)
        tracker.log_batch(20.0)
        tracker.end_epoch()

    stored = MlflowClient(store_uri).get_metric_history(str(tracker.run_id), "loss_mean")
    from_store = read_history(str(tracker.run_id), tracking_uri=store_uri)

    assert len(stored) == 4
    assert [(0, 1.0), (1, 20.0)] == list(zip(from_store["epoch"], from_store["loss_mean"], strict=True))
    assert from_store.equals(read_history("out"))
    for frame in (from_store, read_history("out"), read_history("out/training_metrics.json"), read_history(tracker)):
        assert frame.attrs == {"resumed_at_epochs": (1,)}


def test_metrics_that_are_not_ours_stay_out(sqlite_uri: str) -> None:
    """System metrics and what the user logs beside us have other timestamps."""
    with _record(sqlite_uri, [1.0, 2.0]) as tracker:
        client = MlflowClient(sqlite_uri)
        client.log_metric(str(tracker.run_id), "val_loss", 5.0, step=0, timestamp=1)
        client.log_metric(str(tracker.run_id), "system/cpu", 5.0, step=0, timestamp=1)
        frame = read_history(tracker)

    assert not {"val_loss", "system/cpu"} & set(frame.columns)


def test_a_store_that_cannot_be_reached_falls_back_to_the_mirror_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only for a tracker, which has a mirror."""
    tracker = MetricsTracker("out", tracking_uri="http://127.0.0.1:9")
    tracker.start_epoch(0)
    tracker.log_batch(1.0)
    tracker.end_epoch()
    tracker.close(timeout=0.1)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        frame = read_history(tracker)

    assert [1.0] == frame["loss_mean"].tolist()
    assert "reading the history from out instead" in caplog.text


def test_what_cannot_be_read_gets_one_clear_line(sqlite_uri: str, tmp_path: Path) -> None:
    """Nothing there, an empty directory, another file, an unknown run."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(HistoryError, match="no such file or directory: no/where; expected a run id"):
        read_history("no/where")
    with pytest.raises(HistoryError, match=r"expected training_metrics\.csv or training_metrics\.json in empty"):
        read_history("empty")
    with pytest.raises(MirrorError, match="expected a header with one column 'epoch'"):
        read_history("other.csv")
    with pytest.raises(StoreError, match="0123456789abcdef0123456789abcdef"):
        read_history("0123456789abcdef0123456789abcdef")


@pytest.mark.skipif(not hasattr(mlflow.environment_variables, "MLFLOW_ALLOW_FILE_STORE"), reason="this MLflow takes it")
def test_an_old_mlruns_folder_gets_a_message_that_says_what_to_do(tmp_path: Path) -> None:
    """It flips MLflow's default to the file store, which MLflow then refuses."""
    (tmp_path / "mlruns/0").mkdir(parents=True)
    (tmp_path / "mlruns/0/meta.yaml").touch()
    assert mlflow.get_tracking_uri().endswith("mlruns")

    with pytest.raises(StoreError, match="MLFLOW_ALLOW_FILE_STORE=true"):
        read_history("0123456789abcdef0123456789abcdef")


def test_rows_and_frames_turn_into_each_other() -> None:
    """Nothing is lost either way."""
    rows = [
        EpochMetrics(epoch=0, loss_mean=math.inf, nonfinite_batches=1, logged_at_ms=5),
        EpochMetrics(epoch=2, lr=0.1, extra={"x": 1.0}, logged_at_ms=6),
    ]

    frame = frame_from_rows(rows)

    assert rows == rows_from_frame(frame)
    assert [math.inf] == [v for v in numbers(frame, "loss_mean") if not math.isnan(v)]
    assert len(numbers(frame, "no such column")) == 2
    assert len(frame_from_rows([])) == 0
