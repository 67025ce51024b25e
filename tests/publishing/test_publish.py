"""The post-run step, against real stores and from an empty directory."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from support.common import slow

from mlflow_ddpm import MetricsTracker, download_run, publish_run
from mlflow_ddpm.core.errors import HistoryError, StoreError, UsageError

TREE = {
    *(
        "training_metrics.csv",
        "training_metrics.json",
        "training_report.md",
        "training_report.html",
        "loss_linear.png",
        "loss_log.png",
    ),
    *("loss_distribution.png", "learning_rate.png", "grad_norm.png", "throughput.png", "gpu_memory.png"),
    *("ema_divergence.png", "epoch_timing.png", "loss_derivative.png", "training_dashboard.png"),
}
CONFIG = {"data": {"name": "toy"}, "optim": {"lr": 1e-3, "betas": (0.9, 0.99)}, "flag": True, "nothing": None}


def _record(uri: str | None, epochs: int = 3) -> MetricsTracker:
    tracker = MetricsTracker("out", tracking_uri=uri, config=CONFIG, run_name="a run")
    for epoch in range(epochs):
        tracker.start_epoch(epoch)
        for batch in range(4):
            tracker.log_batch(1.0 / (epoch + 1 + batch), lr=0.1, grad_norm=2.0, batch_size=8)
        tracker.end_epoch(extra={"sample/accuracy": 0.25 * epoch})
    if epochs:
        tracker.log_image("samples", np.full((8, 8), 7, dtype=np.uint8), epoch=epochs - 1)
    return tracker


def _hashes(directory: str) -> dict[str, str]:
    files = [p for p in Path(directory).rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("store_uri", ["sqlite", slow("file")], indirect=True)
def test_the_specified_tree_is_among_the_runs_artifacts(store_uri: str) -> None:
    """Under metrics/ of the same run, whose status and end stay as they were."""
    with _record(store_uri) as tracker:
        pass
    client = MlflowClient(store_uri)
    before = client.get_run(str(tracker.run_id)).info

    published = publish_run(str(tracker.run_id), output_dir="out", tracking_uri=store_uri)

    after = client.get_run(str(tracker.run_id)).info
    logged = {Path(f.path).name for f in client.list_artifacts(str(tracker.run_id), "metrics") if not f.is_dir}
    assert logged == TREE | {"preview.png"}
    assert {p.name for p in published.files} == TREE
    assert (before.status, before.end_time) == (after.status, after.end_time)


@pytest.mark.usefixtures("one_plot")
def test_from_an_empty_directory_the_same_bytes_come_back(sqlite_uri: str) -> None:
    """CSV, JSON, report, plots and samples: the local output may be lost."""
    with _record(sqlite_uri) as tracker:
        pass
    publish_run(str(tracker.run_id), output_dir="out")
    first = _hashes("out")
    shutil.rmtree("out")

    published = publish_run(str(tracker.run_id))

    assert published.output_dir == Path(f"metrics-{str(tracker.run_id)[:8]}")
    assert first == _hashes(str(published.output_dir))
    assert "samples/samples_epoch_000002.png" in first


@pytest.mark.usefixtures("one_plot")
def test_the_config_keeps_its_types(sqlite_uri: str) -> None:
    """Params are strings; the report's config is not made from them."""
    with _record(sqlite_uri) as tracker:
        pass

    published = publish_run(str(tracker.run_id), output_dir="elsewhere")

    document = json.loads((published.output_dir / "training_metrics.json").read_text())
    assert {**CONFIG, "optim": {"lr": 1e-3, "betas": [0.9, 0.99]}} == document["config"]
    assert document["run"]["run_name"] == "a run"
    assert "torch" in document["environment"]


@pytest.mark.usefixtures("one_plot")
def test_a_run_that_was_killed_can_be_published_too(sqlite_uri: str) -> None:
    """What reached the store is enough."""
    tracker = _record(sqlite_uri)
    tracker.close("KILLED")

    assert publish_run(str(tracker.run_id), output_dir="elsewhere").uploaded


@pytest.mark.usefixtures("one_plot")
def test_if_the_store_is_away_the_mirror_is_rendered_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is uploaded then."""
    _record("http://127.0.0.1:9").close(timeout=0.1)
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        from mlflow_ddpm.publishing.publish import publish_or_render

        published = publish_or_render(Path("out"), "http://127.0.0.1:9")

    assert published.uploaded is False
    assert {"training_report.html", "loss_linear.png"} <= {p.name for p in Path("out").iterdir()}
    assert "without uploading" in caplog.text


def test_mistakes_get_one_clear_line_and_touch_nothing(sqlite_uri: str) -> None:
    """An unknown run, a run without epochs, another run's directory."""
    with _record(sqlite_uri):
        pass
    before = _hashes("out")
    other = MlflowClient().create_run("0").info.run_id
    with pytest.raises(StoreError, match="0123456789abcdef0123456789abcdef"):
        publish_run("0123456789abcdef0123456789abcdef")
    with pytest.raises(HistoryError, match="has no rows"):
        publish_run(other)
    with pytest.raises(UsageError, match=f"out holds run .*, not {other}"):
        publish_run(other, output_dir="out")

    assert before == _hashes("out")


def test_epochs_that_the_store_has_not_got_are_not_written_over(sqlite_uri: str) -> None:
    """Neither while the run goes on, nor after its store was away at the end."""
    with _record(sqlite_uri) as tracker:
        tracker.flush()
        with pytest.raises(UsageError, match="out is being written by a live process"):
            publish_run(str(tracker.run_id), output_dir="out")
    table = Path("out/training_metrics.csv")
    head, *_, last = table.read_text(encoding="utf-8").splitlines()
    cells = dict(zip(head.split(","), last.split(","), strict=True))
    later = {**cells, "epoch": "3", "logged_at_ms": str(int(cells["logged_at_ms"]) + 1)}
    with table.open("a", encoding="utf-8") as file:
        file.write(",".join(later.values()) + "\n")
    before = _hashes("out")

    with pytest.raises(UsageError, match="out has 1 row not yet in MLflow; send them with `mlflow-ddpm sync"):
        publish_run(str(tracker.run_id), output_dir="out")
    assert before == _hashes("out")


@pytest.mark.slow
def test_a_real_server_keeps_everything_and_gives_it_back(server_uri: str) -> None:
    """Metrics, params, tags, pictures and the tree, over HTTP; published twice or downloaded it is the same."""
    with _record(server_uri) as tracker:
        pass
    first = publish_run(str(tracker.run_id), output_dir="out", tracking_uri=server_uri)
    second = publish_run(str(tracker.run_id), output_dir="elsewhere", tracking_uri=server_uri)
    download_run(str(tracker.run_id), "fetched", tracking_uri=server_uri)

    client = MlflowClient(server_uri)
    run = client.get_run(str(tracker.run_id))
    logged = {Path(f.path).name for f in client.list_artifacts(run.info.run_id, "metrics") if not f.is_dir}
    assert (run.info.status, run.info.run_name) == ("FINISHED", "a run")
    assert run.data.params["optim.betas"] == "[0.9, 0.99]"
    assert logged == TREE | {"preview.png"}
    assert client.list_artifacts(run.info.run_id, "images")
    assert _hashes(str(first.output_dir)) == _hashes(str(second.output_dir))
    assert _hashes("fetched").items() >= _hashes(str(first.output_dir)).items()


@pytest.mark.usefixtures("one_plot")
@pytest.mark.parametrize("described", [{}, CONFIG], ids=["JSON without config", "JSON with config"])
def test_params_are_the_config_of_a_run_whose_tracker_was_given_none(sqlite_uri: str, described: object) -> None:
    """Another program may have logged them; a config of the tracker's own has its types, and counts alone."""
    with MetricsTracker("out", tracking_uri=sqlite_uri, config=described) as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(1.0)
        tracker.end_epoch()
    MlflowClient(sqlite_uri).log_param(str(tracker.run_id), "warmup", 500)

    publish_run(str(tracker.run_id), output_dir="made")

    told = json.loads(Path("made/training_metrics.json").read_text(encoding="utf-8"))["config"]
    assert told == (json.loads(json.dumps(CONFIG)) if described else {"warmup": "500"})
