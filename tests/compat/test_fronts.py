"""What stands in front of a server and behind it: each ends in success, or in one line with cause and remedy."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from support.common import mlflow_server

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


def train(uri: str, pixels: int = 8, epochs: int = 3) -> MetricsTracker:
    """Record some epochs and a picture of noise, which does not get smaller as PNG."""
    tracker = MetricsTracker("out", tracking_uri=uri, experiment_name="fronts")  # made by the server: so are artifacts
    noise = np.random.default_rng(0).integers(0, 256, (pixels, pixels), dtype=np.uint8)
    for epoch in range(epochs):
        tracker.start_epoch(epoch)
        tracker.log_batch(1.0)
        if not epoch:
            tracker.log_image("samples", noise, 0)
        tracker.end_epoch()
    tracker.close(timeout=40)
    return tracker


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
