"""Links to a run's page in MLflow. Alone in its file so that every printed, logged or documented link is the same."""

import shlex
from urllib.parse import quote

from mlflow_ddpm.core.redaction import redact

LOCAL_SERVER = "http://127.0.0.1:5000"  # where `mlflow ui` answers, which shows a store without a server of its own
# MLflow opens a run in its GenAI view unless the link names the kind of work.
_WORKFLOW = "?workflowType=machine_learning"


def run_link(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """Return the link that opens a run under "Model training", without credentials.

    >>> run_link("sqlite:///mlflow.db", "0", "abc")
    'http://127.0.0.1:5000/#/experiments/0/runs/abc?workflowType=machine_learning'
    """
    server = redact(tracking_uri).rstrip("/") if tracking_uri.startswith(("http://", "https://")) else LOCAL_SERVER
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}{_WORKFLOW}"


def server_command(tracking_uri: str, shown: str) -> str | None:
    """Return the command that serves a store which has no server of its own; ``shown`` is its URI as people type it."""
    is_served = tracking_uri.startswith(("http://", "https://"))
    return None if is_served else f"mlflow ui --backend-store-uri {shlex.quote(shown)}"


def artifact_link(experiment_id: str, run_id: str, path: str) -> str:
    """Return the link from one of MLflow's pages to an artifact in its viewer, on whatever server and prefix.

    >>> artifact_link("0", "abc", "metrics/training_report.html")
    '#/experiments/0/runs/abc/artifacts/metrics/training_report.html?workflowType=machine_learning'
    """
    return f"#/experiments/{experiment_id}/runs/{run_id}/artifacts/{quote(path)}{_WORKFLOW}"


def artifact_source(run_id: str, path: str) -> str:
    """Return the address of an artifact's content, for a picture on one of MLflow's pages.

    >>> artifact_source("abc", "metrics/preview.png")
    'get-artifact?path=metrics/preview.png&run_uuid=abc'
    """
    return f"get-artifact?path={quote(path)}&run_uuid={run_id}"
