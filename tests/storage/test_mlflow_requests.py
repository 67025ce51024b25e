"""The user's credentials go to the servers that the user named, and to no other that a store or a redirect leads to."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mlflow
import pytest

from mlflow_ddpm import load_model
from mlflow_ddpm.core.errors import ItemRefusedError, ModelError, StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.storage.artifacts import Artifact, Artifacts
from mlflow_ddpm.storage.mlflow_requests import import_apart, in_time, server_of
from mlflow_ddpm.storage.mlflow_run import MlflowRun

RUN_ID = "0123456789abcdef0123456789abcdef"
MODEL_ID = "m-0123456789abcdef0123456789abcdef"
ROOT = "/api/2.0/mlflow-artifacts/artifacts"


class Server(ThreadingHTTPServer):
    """Names its artifacts' address, lists no files, and notes the credentials that came."""

    artifacts = f"mlflow-artifacts:/0/{RUN_ID}/artifacts"
    redirect = ""  # to this server
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.credentials: list[str | None] = []
        self.bodies: list[bytes] = []
        self.before_body: Callable[[], object] = lambda: None
        self.uri = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.credentials.append(self.headers.get("Authorization"))
        if self.command == "PUT":
            server.before_body()
        server.bodies.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        info = {"run_id": RUN_ID, "experiment_id": "0", "status": "FINISHED", "artifact_uri": server.artifacts}
        model = {"model_id": MODEL_ID, "experiment_id": "0", "name": "model", "artifact_uri": server.artifacts}
        kind = "run" if "runs/get" in self.path else "model" if "logged-models" in self.path else ""
        answers: dict[str, Any] = {"run": {"info": info}, "model": {"info": model}}
        content = json.dumps({kind: answers[kind]} if kind else {}).encode()
        self.send_response(307 if server.redirect else server.status)
        if server.redirect:
            self.send_header("Location", server.redirect + self.path)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_GET  # noqa: N815 - as http.server calls it

    def log_message(self, *_args: object) -> None:
        """Print nothing."""


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """The user's store, and a stranger's server."""
    with Server() as mine, Server() as theirs:
        for server in (mine, theirs):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield mine, theirs
        for server in (mine, theirs):
            server.shutdown()


@pytest.fixture(params=["token", "password", "netrc"])
def credentials(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of the user's, in each place that MLflow and requests take them from."""
    monkeypatch.setenv("HOME", str(tmp_path))
    if request.param == "token":
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    elif request.param == "password":
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    else:
        (tmp_path / ".netrc").write_text("default login u password secret\n")
        (tmp_path / ".netrc").chmod(0o600)


def _list(uri: str) -> list[Artifact]:
    return Artifacts(MlflowRun(uri, RUN_ID)).find("metrics")


def _send(uri: str) -> None:
    Path("a.csv").write_text("a")
    MlflowRun(uri, RUN_ID).log_file(Path("a.csv").absolute(), "metrics")


def _load(uri: str) -> None:
    with pytest.raises(ModelError, match="has no model among its artifacts"):
        load_model(f"models:/{MODEL_ID}", tracking_uri=uri)


@pytest.mark.parametrize("use", [_list, _send, _load])
@pytest.mark.parametrize("address", ["mlflow-artifacts://{}/0", f"http://{{}}{ROOT}/0", f"http://{{}}\\@{{}}{ROOT}/0"])
@pytest.mark.usefixtures("credentials")
def test_a_server_that_the_store_names_for_its_artifacts_gets_no_credentials(
    servers: tuple[Server, Server], use: Callable[[str], object], address: str
) -> None:
    """Whoever made the run may have named it; the store itself gets them as ever."""
    mine, theirs = servers
    mine.artifacts = address.format(f"127.0.0.1:{theirs.server_port}", f"127.0.0.1:{mine.server_port}")

    with contextlib.suppress(StoreUnavailableError):  # the file that it took is not listed
        use(mine.uri)
    assert all(mine.credentials)
    assert theirs.credentials
    assert not any(theirs.credentials)


@pytest.mark.usefixtures("credentials")
def test_a_redirect_to_another_server_brings_it_no_credentials(servers: tuple[Server, Server]) -> None:
    """Not those of .netrc for any host, either."""
    mine, theirs = servers
    mine.redirect = theirs.uri

    MlflowRun(mine.uri, RUN_ID).read_page()
    assert all(mine.credentials)
    assert theirs.credentials == [None]


def test_a_server_of_the_users_settings_is_named_as_well(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its artifacts may lie on the one that MLflow's settings name."""
    mine, theirs = servers
    mine.artifacts = f"mlflow-artifacts://127.0.0.1:{theirs.server_port}/0"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", theirs.uri)

    assert _list(mine.uri) == []
    assert theirs.credentials == ["Bearer secret"]


def test_a_server_that_asks_for_them_is_named(servers: tuple[Server, Server]) -> None:
    """With what to do."""
    mine, theirs = servers
    mine.artifacts, theirs.status = f"mlflow-artifacts://127.0.0.1:{theirs.server_port}/0", 401

    with pytest.raises(StoreRefusedError, match="asks for credentials, which go to no server but those that you name"):
        _list(mine.uri)


def test_a_file_that_grows_while_it_is_sent_has_the_length_that_it_had(
    servers: tuple[Server, Server], tmp_path: Path
) -> None:
    """What comes after the announced length would pass for the next request of the connection."""
    mine, _ = servers
    log, other = tmp_path / "train.log", tmp_path / "other.bin"
    log.write_bytes(b"x" * 20_000_000)  # more than the sockets' buffers take before the server reads
    other.write_bytes(b"other")
    run, grown = MlflowRun(mine.uri, RUN_ID), threading.Event()

    def grow() -> None:
        if not grown.is_set():
            grown.set()
            with log.open("ab") as file:
                file.write(b"y" * 1_000_000)

    run._keeps_files = True
    mine.before_body = grow
    run.log_file(log, "metrics")
    run.log_file(other, "metrics")
    assert [len(body) for body in mine.bodies if body] == [20_000_000, 5]


def test_a_file_that_shrinks_while_it_is_sent_is_tried_again(servers: tuple[Server, Server], tmp_path: Path) -> None:
    """Soon, not when the server has waited for the rest."""
    mine, _ = servers
    path = tmp_path / "model.bin"
    path.write_bytes(b"x" * 20_000_000)
    run = MlflowRun(mine.uri, RUN_ID)
    run._keeps_files = True
    mine.before_body = lambda: os.truncate(path, 10)

    with pytest.raises(StoreUnavailableError, match="became shorter while it was sent"):
        run.log_file(path, "metrics")


@pytest.mark.parametrize("name", ["a?b.txt", "a#b.txt", "a%2fb.txt", "a\nb.txt"])
def test_a_name_that_an_address_cannot_bear_is_refused(
    servers: tuple[Server, Server], tmp_path: Path, name: str
) -> None:
    """MLflow's client would send the file under the first part of its name."""
    mine, _ = servers
    (tmp_path / name).write_text("x")

    with pytest.raises(ItemRefusedError, match="give it another name"):
        MlflowRun(mine.uri, RUN_ID).log_file(tmp_path / name, "metrics")
    assert not any(mine.bodies)


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/x", "runs:/x", "models:/x/1"])
def test_an_address_that_is_none_of_artifacts_is_refused(servers: tuple[Server, Server], address: str) -> None:
    """MLflow itself would ask round and round."""
    mine, _ = servers
    mine.artifacts = address

    with pytest.raises(StoreRefusedError, match="which is no address of a server's artifacts"):
        _list(mine.uri)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), OSError("x"), BaseException("of a plug-in")])
def test_what_a_call_on_another_thread_raises_is_raised_here(error: BaseException) -> None:
    """A plug-in that exits while it is imported, say: else the caller waits for ever."""

    def call() -> None:
        raise error

    for run in (partial(in_time, 60.0), import_apart):
        with pytest.raises(type(error)) as caught:
            run(call)
        assert caught.value is error


def test_a_call_is_made_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the exit of newer Pythons, which would lose the end of the run."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)

    assert in_time(60.0, lambda: 3) == 3


def test_a_users_own_call_is_left_alone(servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own rules hold there."""
    mine, theirs = servers
    _list(mine.uri)
    mine.artifacts = f"mlflow-artifacts://127.0.0.1:{theirs.server_port}/0"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")

    assert mlflow.MlflowClient(mine.uri).list_artifacts(RUN_ID) == []
    assert theirs.credentials == ["Bearer secret"]


@pytest.mark.parametrize(
    ("uri", "server"),
    [
        ("http://a\\@b", ("http", "a", 80)),
        ("HTTPS://A", ("https", "a", 443)),
        ("http://u:p@b:5000/prefix", ("http", "b", 5000)),
        ("http://[::1]:5000", ("http", "[::1]", 5000)),
        ("http://a:99999", ("http://a:99999", None, None)),
    ],
)
def test_an_address_is_read_as_the_client_reads_it(uri: str, server: tuple[str, str | None, int | None]) -> None:
    """Else a stranger's host would pass for the user's."""
    assert server_of(uri) == server
