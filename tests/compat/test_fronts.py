"""What stands in front of a server and behind it: each ends in success, or in one line with cause and remedy."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from support.common import mlflow_server
from support.postgres import postgres_server

from mlflow_ddpm import MetricsTracker

pytestmark = pytest.mark.slow

_NGINX = """
daemon off; master_process off; error_log {here}/error.log; pid {here}/nginx.pid;
events {{}}
http {{
  access_log off; client_body_temp_path {here}/body; proxy_temp_path {here}/proxy; fastcgi_temp_path {here}/fastcgi;
  uwsgi_temp_path {here}/uwsgi; scgi_temp_path {here}/scgi;
  server {{
    listen 127.0.0.1:{port}; client_max_body_size {limit};
    location /team/mlflow/ {{ proxy_pass {upstream}/; proxy_set_header Host 127.0.0.1; }}
  }}
}}
"""


@contextmanager
def nginx(upstream: str, here: Path, limit: str) -> Iterator[str]:
    """Yield the address of an nginx in front of a server, under a path prefix and with a limit of bodies."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        pytest.skip("needs nginx: apt-get install nginx")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (here / "nginx.conf").write_text(_NGINX.format(here=here, port=port, upstream=upstream, limit=limit))
    server = subprocess.Popen([program, "-c", str(here / "nginx.conf"), "-p", str(here)])
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/team/mlflow"
    finally:
        server.terminate()
        server.wait(timeout=30)


def train(uri: str, pixels: int = 8, epochs: int = 3, experiment: str = "fronts") -> MetricsTracker:
    """Record some epochs and a picture of noise, which does not get smaller as PNG."""
    tracker = MetricsTracker(
        "out", tracking_uri=uri, experiment_name=experiment
    )  # made by the server: so are artifacts
    noise = np.random.default_rng(0).integers(0, 256, (pixels, pixels), dtype=np.uint8)
    for epoch in range(epochs):
        tracker.start_epoch(epoch)
        tracker.log_batch(1.0)
        if not epoch:
            tracker.log_image("samples", noise, 0)
        tracker.end_epoch()
    tracker.close(timeout=120)
    return tracker


def ended(uri: str, run_id: str) -> tuple[str, int]:
    """Return the run's status and the number of its rows."""
    client = MlflowClient(uri)
    return client.get_run(run_id).info.status, len(client.get_metric_history(run_id, "loss_mean"))


def check_cause(caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """Check that cause and remedy are in one line, said when it is found, and where it is final in a second.

    Without any word, check that there was nothing to warn of.
    """
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert not words or 1 <= len(lines) <= 2, lines
    assert words or not lines
    for line in lines:
        assert "\n" not in line
        assert "Traceback" not in line
        assert all(word in line for word in words) or "`mlflow-ddpm status out` lists why" in line, line


def test_a_body_limit_of_nginx_costs_the_picture_and_nothing_else(
    server_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows and the run's end arrive; one line names the limit's setting. The prefix is part of the address."""
    with nginx(server_uri, tmp_path, "60k") as uri:
        run_id = str(train(uri, pixels=512).run_id)

    run = MlflowClient(server_uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert len(MlflowClient(server_uri).get_metric_history(run_id, "loss_mean")) == 3
    assert caplog.text.count("client_max_body_size") == 1


def test_without_its_prefix_an_address_is_refused_with_the_remedy(
    tmp_path: Path, empty_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With it, all is well."""
    with mlflow_server(tmp_path, empty_database, options=("--static-prefix", "/ml")) as uri:
        tracker = train(f"{uri}/ml")
        assert MlflowClient(f"{uri}/ml").get_run(str(tracker.run_id)).info.status == "FINISHED"
        shutil.rmtree("out")
        caplog.clear()
        train(uri)

    assert "--static-prefix" in caplog.text
    assert "<html" not in caplog.text.lower()


ADMIN, READER = ("admin", "of-a-test-1234"), ("reader", "reader12345678")
_REFUSED = [
    (("", ""), ("401", "MLFLOW_TRACKING_USERNAME")),
    (("admin", "wrong"), ("401", "MLFLOW_TRACKING_USERNAME")),
    (READER, ("403", "EDIT permission")),
]


def test_basic_auth_that_refuses_is_one_line_and_the_rows_stay_on_disk(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No password, a wrong one, and a user who may only read; the administrator's run ends FINISHED."""
    pytest.importorskip("flask_wtf", reason="needs Flask-WTF: pip install -e '.[servers]'")
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", "of a test")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", ADMIN[1])

    def sign_in(name: str, password: str) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)

    with mlflow_server(tmp_path, empty_database, options=("--app-name", "basic-auth")) as uri:
        sign_in(*ADMIN)
        user_made = {"username": READER[0], "password": READER[1]}
        requests.post(f"{uri}/api/2.0/mlflow/users/create", json=user_made, auth=ADMIN, timeout=60).raise_for_status()
        finished = str(train(uri).run_id)
        assert ended(uri, finished) == ("FINISHED", 3)
        for user, words in _REFUSED:
            shutil.rmtree("out")
            caplog.clear()
            sign_in(*user)
            train(uri)
            for thread in threading.enumerate():  # an attempt under way would sign in as the next user
                if thread.name.startswith("mlflow_ddpm-upload"):
                    thread.join(60)
            check_cause(caplog, *words)
            assert len(Path("out/training_metrics.csv").read_text().splitlines()) == 4
        sign_in(*ADMIN)
        runs = MlflowClient(uri).search_runs([MlflowClient(uri).get_run(finished).info.experiment_id])

    assert [run.info.run_id for run in runs] == [finished]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 server on loopback (moto), and the settings of a client that may use it."""
    pytest.importorskip("boto3", reason="needs boto3: pip install -e '.[servers]'")
    moto = pytest.importorskip("moto.server", reason="needs moto: pip install -e '.[servers]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "nowhere")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-a-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-a-test")
    import boto3

    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials of an earlier test
    boto3.Session().client("s3", endpoint_url=endpoint).create_bucket(Bucket="runs")
    yield "s3://runs/mlflow"
    server.stop()


def sign_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the client without credentials of S3."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize("bucket", ["runs", "nowhere"])
def test_s3_behind_the_server_needs_nothing_here(  # noqa: PLR0917 - fixtures
    bucket: str,
    s3: str,
    tmp_path: Path,
    empty_database: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither boto3 nor credentials; a bucket that is not there costs the files, and is named."""
    destination = s3.replace("runs", bucket)
    with mlflow_server(tmp_path, empty_database, options=("--artifacts-destination", destination)) as uri:
        sign_off(monkeypatch)
        monkeypatch.setitem(sys.modules, "boto3", None)
        run_id = str(train(uri).run_id)
        assert ended(uri, run_id) == ("FINISHED", 3)
        if bucket == "runs":
            assert MlflowClient(uri).list_artifacts(run_id, "metrics/samples")

    check_cause(caplog, *(("artifact store", "--artifacts-destination") if bucket == "nowhere" else ()))


@pytest.mark.parametrize("what", ["all", "boto3", "credentials", "bucket"])
def test_s3_without_a_server_between_takes_the_files_or_says_what_is_missing(  # noqa: PLR0917 - fixtures
    what: str,
    s3: str,
    tmp_path: Path,
    server_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Rows and the run's end arrive in any case; boto3, credentials or the bucket are named in one line."""
    client = MlflowClient(server_uri)
    location = s3.replace("runs", "nowhere") if what == "bucket" else s3
    client.create_experiment(f"s3 {what}", artifact_location=location)
    if what == "boto3":
        monkeypatch.setitem(sys.modules, "boto3", None)
    if what == "credentials":
        sign_off(monkeypatch)
    run_id = str(train(server_uri, experiment=f"s3 {what}").run_id)

    assert ended(server_uri, run_id) == ("FINISHED", 3)
    remedies = {"boto3": "pip install boto3", "credentials": "no credentials", "bucket": "artifact location"}
    check_cause(caplog, *([remedies[what]] if what in remedies else []))
    if what == "all":
        assert client.list_artifacts(run_id, "metrics/samples")


def test_postgresql_behind_a_server_or_without_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All is well both ways, on one database."""
    with postgres_server() as postgres:
        with mlflow_server(tmp_path, store=postgres.uri) as uri:
            assert ended(uri, str(train(uri).run_id)) == ("FINISHED", 3)
        shutil.rmtree("out")
        assert ended(postgres.uri, str(train(postgres.uri, experiment="direct").run_id)) == ("FINISHED", 3)

    check_cause(caplog)
    assert len(Path("out/training_metrics.csv").read_text().splitlines()) == 4


def test_postgresql_without_its_driver_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It names the driver, and the rows stay on disk; whatever listens there is not spoken to."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        train(f"postgresql://mlflow@127.0.0.1:{listening.getsockname()[1]}/postgres")

    check_cause(caplog, "pip install 'psycopg[binary]'")
    assert len(Path("out/training_metrics.csv").read_text().splitlines()) == 4
