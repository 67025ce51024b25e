"""MLflow's system tab: filled by MLflow's own monitor, if it is wanted."""

from __future__ import annotations

import time
from typing import Any

import pytest
from mlflow import MlflowClient

from mlflow_ddpm import MetricsTracker, read_history


def keys_of(run: MetricsTracker, uri: str) -> list[str]:
    """Return the run's system metrics."""
    metrics = MlflowClient(uri).get_run(str(run.run_id)).data.metrics
    return [key for key in metrics if key.startswith("system/")]


def keys_after(run: MetricsTracker, uri: str, wait_sec: float = 1.0) -> list[str]:
    """Record an epoch that lasts until samples have come, or the wait is over; close, and return the keys."""
    deadline = time.monotonic() + 60
    while not run.run_id and time.monotonic() < deadline:
        time.sleep(0.2)
    run.start_epoch(run.next_epoch)
    run.log_batch(1.0)
    deadline = time.monotonic() + wait_sec
    while not keys_of(run, uri) and time.monotonic() < deadline:
        time.sleep(0.2)
    run.end_epoch()
    assert run.close(timeout=60)
    return keys_of(run, uri)


@pytest.mark.parametrize(("setting", "argument"), [("true", None), ("", True), ("false", True)])
def test_the_system_tab_is_filled_when_it_is_wanted(
    setting: str, argument: Any, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own history is as it would be without, and a resume adds to the samples."""
    pytest.importorskip("psutil", reason="needs psutil: pip install psutil")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", setting or "false")
    tracker = MetricsTracker("out", system_metrics=argument)

    assert "system/cpu_utilization_percentage" in keys_after(tracker, sqlite_uri, wait_sec=60)
    assert not [name for name in read_history(str(tracker.run_id)).columns if name.startswith("system/")]


def test_it_stays_empty_otherwise(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, and against the setting."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    assert keys_after(MetricsTracker("out"), sqlite_uri) == []
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    assert keys_after(MetricsTracker("other", system_metrics=False), sqlite_uri) == []


def test_without_psutil_one_line_says_what_to_install(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The training goes on."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert keys_after(MetricsTracker("out", system_metrics=True), sqlite_uri) == []
    assert caplog.text.count("pip install psutil") == 1
