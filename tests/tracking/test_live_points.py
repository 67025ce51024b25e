"""Points within an epoch or window: what they are, when they come, and that nothing waits for them."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from mlflow_ddpm import MetricsTracker, UsageError, read_history
from mlflow_ddpm.tracking.batch_values import BatchValues
from mlflow_ddpm.tracking.live_points import LiveMeter

NAMES = ("live/loss", "live/lr", "live/grad_norm", "live/samples_per_sec")


def _points(uri: str, run_id: str | None, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(str(run_id), key)]


def _wait_for_point(uri: str, run_id: str | None, key: str, count: int = 1) -> list[tuple[int, float]]:
    deadline = time.monotonic() + 30
    while len(points := _points(uri, run_id, key)) < count:
        assert time.monotonic() < deadline, f"no {key}"
        time.sleep(0.05)
    return points


def test_an_epoch_that_runs_shows_in_mlflow(sqlite_uri: str) -> None:
    """At the number of batches done, the mean of what was logged since; before any row is there."""
    with MetricsTracker("out", live_every_sec=0.2) as tracker:
        run_id = tracker.run_id
        tracker.start_epoch(0)
        for k in range(4):
            tracker.log_batch(float(k), lr=0.1 * (k + 1), grad_norm=2.0, batch_size=8)
        time.sleep(0.25)
        tracker.log_batch(4.0, lr=0.5, grad_norm=7.0, batch_size=8)
        assert _wait_for_point(sqlite_uri, run_id, "live/loss") == [(5, 2.0)]
        assert _points(sqlite_uri, run_id, "live/lr") == [(5, 0.5)]
        assert _points(sqlite_uri, run_id, "live/grad_norm") == [(5, 3.0)]
        ((step, rate),) = _points(sqlite_uri, run_id, "live/samples_per_sec")
        assert step == 5
        assert 0 < rate < 40 / 0.25
        assert "loss_mean" not in MlflowClient(sqlite_uri).get_run(str(run_id)).data.metrics
        time.sleep(0.25)
        tracker.log_batch(10.0)
        assert _wait_for_point(sqlite_uri, run_id, "live/loss", 2)[1] == (6, 10.0)
        row = tracker.end_epoch()

    assert row is not None
    assert (row.loss_mean, row.batches) == (20 / 6, 6)


def test_history_and_files_leave_them_out(sqlite_uri: str) -> None:
    """They are no rows, and no columns."""
    with MetricsTracker("out", live_every_sec=0.01) as tracker:
        for epoch in range(2):
            tracker.start_epoch(epoch)
            for _ in range(3):
                time.sleep(0.02)
                tracker.log_batch(1.0, lr=0.1, grad_norm=1.0, batch_size=1)
            _wait_for_point(sqlite_uri, tracker.run_id, "live/loss", 1 + epoch)
            tracker.end_epoch()

    frame = read_history(str(tracker.run_id))
    assert list(frame["epoch"]) == [0, 1]
    assert not [name for name in frame.columns if name.startswith("live")]
    assert "live" not in Path("out/training_metrics.csv").read_text(encoding="utf-8")


def test_the_global_step_counts_the_batches_of_earlier_epochs_and_lives(sqlite_uri: str) -> None:
    """After a resume, too."""
    for life in range(2):
        with MetricsTracker("out", live_every_sec=0.05, resume=True) as tracker:
            tracker.start_epoch(life)
            for _ in range(10):
                tracker.log_batch(1.0)
            time.sleep(0.06)
            tracker.log_batch(1.0)
            _wait_for_point(sqlite_uri, tracker.run_id, "live/loss", 1 + life)
            tracker.end_epoch()

    assert [step for step, _ in _points(sqlite_uri, tracker.run_id, "live/loss")] == [11, 22]


def test_windows_have_them_at_the_number_of_steps_done(sqlite_uri: str) -> None:
    """Losses may be tensors, with a graph behind them."""
    weight = torch.ones(1, requires_grad=True)
    with MetricsTracker("out", every_n_steps=1000, live_every_sec=0.1) as tracker:
        for step in range(20):
            tracker.log_step(step, (weight * step).sum(), lr=torch.tensor(0.25), grad_norm=torch.tensor(2.0))
        time.sleep(0.11)
        tracker.log_step(20, torch.tensor(20.0), lr=torch.tensor(0.25))
        assert _wait_for_point(sqlite_uri, tracker.run_id, "live/loss") == [(21, 10.0)]
        assert _points(sqlite_uri, tracker.run_id, "live/lr") == [(21, 0.25)]
        assert _points(sqlite_uri, tracker.run_id, "live/grad_norm") == [(21, 2.0)]
        assert _points(sqlite_uri, tracker.run_id, "live/samples_per_sec") == []


@pytest.mark.parametrize("every_sec", [0, 3600])
def test_there_is_none_when_it_is_off_or_the_epoch_is_short(sqlite_uri: str, every_sec: float) -> None:
    """An epoch shorter than the interval is seen by its row."""
    with MetricsTracker("out", live_every_sec=every_sec) as tracker:
        for epoch in range(3):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0)
            tracker.end_epoch()

    metrics = MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).data.metrics
    assert not [name for name in metrics if name.startswith("live/")]


@pytest.mark.parametrize("every_sec", [-1, math.nan, math.inf, 2**2000, "30", None, True])
def test_an_interval_that_is_none_is_refused(sqlite_uri: str, every_sec: object) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match="live_every_sec"):
        MetricsTracker("out", live_every_sec=every_sec)  # type: ignore[arg-type]
    assert not Path("out").exists()


def _live(batches: BatchValues) -> dict[str, float]:
    meter = LiveMeter(1.0, 1)
    meter.open()
    return {p.key: p.value for p in meter.take(batches, batches.batches, 0.0)()}


def test_each_reading_has_what_came_since_the_last_whatever_was_folded_meanwhile() -> None:
    """Floats, tensors and a mixture, in more batches than are folded at once."""
    batches, noted = BatchValues(), 0
    meter = LiveMeter(1.0, 1)
    meter.open()
    for count in (1, 1023, 1, 5000, 700, 324, 2048, 3):
        losses = []
        for _ in range(count):
            noted += 1
            loss = float(noted % 97)
            batches.add(torch.tensor(loss) if noted % 3 == 0 or count == 2048 else loss, None, 2 * loss, None)
            losses.append(loss)
        points = {p.key: p.value for p in meter.take(batches, noted, 0.0)()}
        assert points["live/loss"] == pytest.approx(sum(losses) / count)
        assert points["live/grad_norm"] == pytest.approx(2 * sum(losses) / count)
    assert len(batches.read().losses) == noted


def test_a_reading_has_what_there_was_when_it_was_made_and_what_a_dropped_one_had() -> None:
    """The uploader's thread reads it later, while the training goes on."""
    batches, meter = BatchValues(), LiveMeter(1.0, 2)
    meter.open()
    for loss in range(3000):
        batches.add(float(loss), None, None, 2)
        if loss == 999:
            meter.take(batches, loss + 1, 0.0)  # many wait: dropped
        if loss == 1999:
            first = meter.take(batches, loss + 1, 0.0)
    second = meter.take(batches, 3000, 0.0)

    means = [{p.key: (p.step, p.value) for p in reading()}["live/loss"] for reading in (first, second)]
    assert means == [(2000, 999.5), (3000, 2499.5)]


def test_what_is_not_finite_is_left_out_unless_nothing_is_finite() -> None:
    """As in the rows."""
    batches = BatchValues()
    batches.add(math.nan, None, math.inf, None)
    batches.add(torch.tensor(3.0, dtype=torch.bfloat16), None, None, None)

    live = _live(batches)
    assert live["live/loss"] == 3.0
    assert math.isnan(live["live/grad_norm"])
    assert "live/lr" not in live


def test_a_pause_is_no_time_of_the_samples(sqlite_uri: str) -> None:
    """Sampling within the epoch makes no training slower."""
    with MetricsTracker("out", live_every_sec=0.2) as tracker:
        tracker.start_epoch(0)
        with tracker.paused():
            time.sleep(0.5)
        tracker.log_batch(1.0, batch_size=1000)
        ((_, rate),) = _wait_for_point(sqlite_uri, tracker.run_id, "live/samples_per_sec")
        tracker.end_epoch()

    assert rate > 1000 / 0.4


def test_the_rate_leaves_out_a_first_step_that_was_over_when_the_clock_started() -> None:
    """As the row does; of that step alone there is no rate."""
    batches, meter = BatchValues(), LiveMeter(1.0, 1)
    meter.open()
    batches.add(1.0, None, None, 10**6)
    batches.start_rates()
    assert [p.key for p in meter.take(batches, 1, 0.0)()] == ["live/loss"]
    time.sleep(0.01)
    batches.add(1.0, None, None, 1)

    rate = meter.take(batches, 2, 0.0)()[-1]
    assert rate.key == "live/samples_per_sec"
    assert 0 < rate.value <= 100


def test_a_store_that_is_away_holds_no_values_back_for_long(tmp_path: Path) -> None:
    """They show how the present epoch goes: later nobody needs them."""
    with MetricsTracker(tmp_path / "out", tracking_uri="http://127.0.0.1:9", live_every_sec=1e-6) as tracker:
        tracker.start_epoch(0)
        for _ in range(100):
            tracker.log_batch(1.0)
        assert len(tracker._recorder._uploader._live) <= 8  # type: ignore[union-attr]
        tracker.end_epoch()
        tracker.close(timeout=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_is_not_waited_for(sqlite_uri: str) -> None:
    """Torch's own sync debug mode watches; the point arrives while the device is busy with what came later."""
    with MetricsTracker("out", live_every_sec=0.05) as tracker:
        tracker.start_epoch(0)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for k in range(2000):
                tracker.log_batch(torch.full((), float(k), device="cuda"), grad_norm=torch.ones((), device="cuda"))
            time.sleep(0.06)
            began = time.perf_counter()
            tracker.log_batch(torch.full((), 2000.0, device="cuda"))
            assert time.perf_counter() - began < 0.01
        finally:
            torch.cuda.set_sync_debug_mode("default")
        points = _wait_for_point(sqlite_uri, tracker.run_id, "live/loss")
        tracker.end_epoch()

    assert 0 <= points[0][1] <= 2000
