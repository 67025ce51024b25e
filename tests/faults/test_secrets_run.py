"""No byte of a run holds a credential: not its files, not the store, not the log, however it got there."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from support.common import slow
from support.store_faults import front_of, points_in_store, points_on_disk

from mlflow_ddpm import MetricsTracker, generate_report, publish_run
from mlflow_ddpm.storage.layout import DELIVERY_STATE_NAME
from mlflow_ddpm.tracking.sync import sync_directory

PASSWORD = "correct-horse-42"  # noqa: S105 - it opens nothing
PLANTED = {
    "password": PASSWORD,
    "number": "7654321098",
    "token": "hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh",
    "key": "AKIAIOSFODNN7EXAMPLE",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdef123",
    "uri": "pa55-w0rd",
    "tag": "tagged-s3cret",
    "environment": "from-the-environment-1",
    "remote": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
}
CONFIG = {
    "data": {"name": "digits", "password": PASSWORD, "url": f"https://me:{PLANTED['uri']}@host/x"},
    "hub": {"hf_token": PLANTED["token"], "pin_password": int(PLANTED["number"])},
    "aws": ["--access-key", PLANTED["key"]],
    "comment": f"bearer {PLANTED['jwt']}, and {PLANTED['environment']}",
    "model": {"max_tokens": 77, "key_dim": 64},
    "license": f"see https://x:{PLANTED['uri']}@host/licence",
}
TAGS = {
    "api_key": PLANTED["tag"],
    "note": f"login with {PASSWORD}",
    "remote": f"https://{PLANTED['remote']}@github.com/a/b",
}


def record(uri: str) -> MetricsTracker:
    """Return a tracker whose training failed with a secret in the message."""
    name = f"run {PLANTED['token']}"
    tracker = MetricsTracker("out", tracking_uri=uri, config=CONFIG, tags=TAGS, run_name=name)
    with contextlib.suppress(ValueError), tracker:
        tracker.start_epoch(0)
        tracker.log_batch(1.0)
        tracker.end_epoch()
        raise ValueError(f"refused: {PASSWORD} at postgresql://me:{PLANTED['uri']}@db/x, token={PLANTED['jwt']}")
    return tracker


def leaks(*places: str | Path) -> list[tuple[str, str]]:
    """Return which planted secret stands in which file."""
    files = [path for place in places for path in ([Path(place)] if Path(place).is_file() else Path(place).rglob("*"))]
    return [
        (path.name, name)
        for path in files
        if path.is_file()
        for name, secret in PLANTED.items()
        if secret.encode() in path.read_bytes()
    ]


@pytest.fixture(autouse=True)
def secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a token usually comes to a job."""
    monkeypatch.setenv("SOME_API_TOKEN", PLANTED["environment"])


@pytest.mark.parametrize("store_uri", ["sqlite", slow("file")], indirect=True)
def test_no_secret_is_on_disk_in_the_store_or_in_the_log(store_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """Config, tags, run name, error message; CSV, JSON, cursor, plots, Markdown, HTML, params, tags, artifacts."""
    with caplog.at_level(logging.DEBUG):
        tracker = record(store_uri)
        published = publish_run(str(tracker.run_id), output_dir="published", tracking_uri=store_uri)
    run = MlflowClient(store_uri).get_run(str(tracker.run_id))

    assert leaks("out", "published", "mlflow.db", "mlruns") == []
    assert [secret for secret in PLANTED.values() if secret in caplog.text] == []
    assert len(published.files) > 12
    assert {"hub.hf_token": "***", "data.password": "***"}.items() <= run.data.params.items()
    assert run.data.params["data.url"] == "https://***@host/x"
    assert run.data.params["model.max_tokens"] == "77"
    assert run.data.tags["api_key"] == "***"
    assert "postgresql://***@db/x" in run.data.tags["error.message"]
    assert run.info.run_name == "run ***"


def test_the_log_says_once_which_keys_were_hidden(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """By name alone; whoever is surprised finds out why."""
    record(sqlite_uri)
    (line,) = [message for message in caplog.messages if "credential" in message]

    for name in ("data.password", "data.url", "hub.hf_token", "hub.pin_password", "aws", "comment", "tag api_key"):
        assert name in line
    assert "max_tokens" not in line


def test_a_report_made_by_hand_hides_them_too(tmp_path: Path, sqlite_uri: str) -> None:
    """The specification's own call, with the config given to it."""
    tracker = record(sqlite_uri)
    generate_report(tracker, config=CONFIG, save_dir=tmp_path / "hand", environment={"HF_TOKEN": PLANTED["token"]})

    assert leaks("hand") == []
    assert '"max_tokens": 77' in (tmp_path / "hand" / "training_report.md").read_text()


@pytest.mark.usefixtures("one_plot")
def test_what_another_program_logged_is_hidden_when_it_is_published(sqlite_uri: str) -> None:
    """A run's own artifact may hold what its writer did not hide."""
    tracker = record(sqlite_uri)
    document = json.loads(Path("out/training_metrics.json").read_bytes())
    document["config"], document["environment"] = CONFIG, {"HF_TOKEN": PLANTED["token"]}
    Path("elsewhere").mkdir()
    Path("elsewhere/training_metrics.json").write_text(json.dumps(document))
    MlflowClient(sqlite_uri).log_artifact(str(tracker.run_id), "elsewhere/training_metrics.json", "metrics")
    publish_run(str(tracker.run_id), output_dir="published")

    assert leaks("published") == []


def test_a_tracking_uris_password_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the cursor nor in the JSON, nor in the warning that the store is away."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with MetricsTracker("out", tracking_uri=f"http://me:{PLANTED['uri']}@127.0.0.1:9") as tracker:
        tracker.close(timeout=0.1)

    assert leaks("out") == []
    assert json.loads((Path("out") / DELIVERY_STATE_NAME).read_bytes())["tracking_uri"] == "http://***@127.0.0.1:9"


@pytest.mark.slow
def test_mlflow_prints_no_password_when_the_users_own_run_ends(
    server_uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """MLflow shows the address of a run as it was given: ``View run ... at: http://user:password@...``."""
    mlflow.set_tracking_uri(server_uri.replace("://", f"://me:{PLANTED['uri']}@"))
    with mlflow.start_run(), MetricsTracker("out"):
        pass

    assert PLANTED["uri"] not in capfd.readouterr().out


@pytest.mark.slow
def test_a_run_whose_uri_had_a_password_is_sent_by_sync(server_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cursor knows the server, MLflow's own variables the way in; without them, the error names them."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with front_of(server_uri, "right-token") as front:
        front.become("token")
        address = front.url.removeprefix("http://")
        uri = f"http://me:{PLANTED['uri']}@{address}"
        with MetricsTracker("out", tracking_uri=uri, experiment_name="guarded") as tracker:
            tracker.start_epoch(0)
            tracker.log_batch(1.0)
            tracker.end_epoch()
            tracker.close(timeout=2)
        with pytest.raises(Exception, match="MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
            sync_directory(Path("out"), timeout=5)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "right-token")
        sync_directory(Path("out"), tracking_uri=front.url, timeout=20)

    client = MlflowClient(server_uri)
    experiment = client.get_experiment_by_name("guarded")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert leaks("out") == []
    assert points_on_disk("out") == points_in_store(server_uri, run.info.run_id)
