"""Every call into MLflow, against real stores: what was sent is there as sent, once, and within MLflow's limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from mlflow_ddpm.core.errors import RunMissingError
from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.storage.mlflow_run import MlflowRun, clean_tags


@pytest.fixture
def run(store_uri: str) -> MlflowRun:
    """A run of each local kind of store."""
    return MlflowRun(store_uri, MlflowClient(store_uri).create_run("0", run_name="first").info.run_id)


def test_points_come_back_in_any_number(run: MlflowRun) -> None:
    """More than MLflow takes in one request; the page has the last of each."""
    run.log_points([Point("loss_mean", 1 / (i + 1), 1000 + i, i) for i in range(1001)])

    history = MlflowClient(run.tracking_uri).get_metric_history(run.run_id, "loss_mean")
    assert sorted((p.step, p.timestamp, p.value) for p in history) == [(i, 1000 + i, 1 / (i + 1)) for i in range(1001)]
    assert run.read_page().metrics == {"loss_mean": 1 / 1001}
    assert ("loss_mean", 7, 1007) in run.logged_points()


def test_params_that_are_there_stay_and_the_others_are_added(run: MlflowRun) -> None:
    """Params cannot be changed; names and lengths are made such as MLflow takes."""
    MlflowClient(run.tracking_uri).log_param(run.run_id, "lr", "0.1")
    run.log_params({"lr": "0.2", "a,b[0]": "x" * 7000, "../up": "zero\0byte"})

    params = run.read_page().params
    assert params == {"lr": "0.1", "a_b_0_": "x" * 6000, "_/up": "zerobyte"}


def test_tags_are_set_over_earlier_ones_cut_and_deleted(run: MlflowRun) -> None:
    """As long as the oldest servers take them."""
    run.set_tags({"team": "a", "note": "x" * 6000})
    run.set_tags({"team": "b"})
    run.delete_tags(["note"])

    assert run.read_page().tags["team"] == "b"
    assert "note" not in run.read_page().tags
    assert len(clean_tags({"note": "x" * 6000})["note"]) == 5000


def test_status_and_facts_of_a_run(run: MlflowRun) -> None:
    """Ended at the moment given, and RUNNING again when resumed."""
    run.set_tags({"mlflow_ddpm.every_n_steps": "100", "mlflow_ddpm.resumed_at_epochs": "3, 7"})
    run.finish("KILLED", 4_102_444_800_000)

    info = run.info()
    assert (info["run_id"], info["run_name"], info["status"]) == (run.run_id, "first", "KILLED")
    assert info["end_time_ms"] == 4_102_444_800_000
    assert (info["every_n_steps"], info["resumed_at_epochs"]) == (100, [3, 7])
    run.resume()
    assert run.info()["status"] == "RUNNING"


def test_a_picture_is_an_artifact_and_once_in_the_image_view(run: MlflowRun) -> None:
    """Sent again, as after a crash, it does not show twice."""
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save("samples_000001.png")
    png = Path("samples_000001.png")
    for _ in range(2):
        run.log_image("samples", png, epoch=1, timestamp_ms=5000, logged=run.logged_images())

    client = MlflowClient(run.tracking_uri)
    assert [file.path for file in client.list_artifacts(run.run_id, "metrics/samples")] == [f"metrics/samples/{png}"]
    assert len(run.logged_images()) == 2  # one picture in two sizes
    assert run.read_page().tags["mlflow.loggedImages"] == "true"


def test_a_data_set_is_an_input_with_its_profile(run: MlflowRun) -> None:
    """Name, digest and source are MLflow's; the rest is the profile."""
    run.log_datasets([{"name": "digits", "digest": "abc", "source": "sklearn", "train_images": 1500}])

    (logged,) = MlflowClient(run.tracking_uri).get_run(run.run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest, logged.dataset.source) == ("digits", "abc", "sklearn")
    assert json.loads(logged.dataset.profile) == {"train_images": 1500}


def test_a_run_that_is_not_there_is_named(store_uri: str) -> None:
    """One clear error."""
    with pytest.raises(RunMissingError, match="0" * 32):
        MlflowRun(store_uri, "0" * 32).info()
