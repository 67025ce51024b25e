"""Links to a run's page."""

from __future__ import annotations

import pytest

from mlflow_ddpm.core.links import run_link


@pytest.mark.parametrize(
    ("uri", "server"),
    [
        ("http://tracking:5000", "http://tracking:5000"),
        ("https://tracking/mlflow/", "https://tracking/mlflow"),
        ("sqlite:///mlflow.db", "http://127.0.0.1:5000"),
        ("postgresql://host/db", "http://127.0.0.1:5000"),
    ],
)
def test_a_link_opens_the_run_under_model_training(uri: str, server: str) -> None:
    """A store without a server of its own is shown by ``mlflow ui``."""
    assert run_link(uri, "7", "abc") == f"{server}/#/experiments/7/runs/abc?workflowType=machine_learning"


def test_a_link_carries_no_credentials() -> None:
    """It is printed, logged and pasted into messages."""
    assert "hunter2" not in run_link("https://me:hunter2@tracking", "0", "abc")
