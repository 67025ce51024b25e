"""What MLflow and the libraries below it raise, met for real: passing or permanent, one line with cause and remedy."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from support.common import slow

from mlflow_ddpm import ItemRefusedError, RunMissingError, StoreError, StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.storage.mlflow_call import translate_mlflow_errors
from mlflow_ddpm.storage.mlflow_run import MlflowRun

RUN = "a" * 32


class Answering(BaseHTTPRequestHandler):
    """Answers /CODE/... with that HTTP status and a web page, and 302 with the way to a login page."""

    def do_GET(self) -> None:
        """Answer."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        code = int(self.path.split("/")[1])
        page = f"<html>\n<head><title>{code}</title></head>\n<body><hr>nginx</body></html>".encode()
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/200/login")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keep the console free."""


@pytest.fixture
def web() -> Iterator[str]:
    """A web server that is no MLflow."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No retries: each fault comes once."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


def fault_of(action: Callable[[], object]) -> StoreError:
    """The error that it ends in: one line, without a web page in it."""
    with pytest.raises(StoreError) as caught:
        action()
    text = str(caught.value)
    assert len(text.splitlines()) == 1, text
    assert "<html" not in text
    assert len(text) < 500, text
    return caught.value


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (200, StoreUnavailableError, "a login page or a proxy may stand in front"),
        (302, StoreUnavailableError, "a login page or a proxy may stand in front"),
        (401, StoreRefusedError, "MLFLOW_TRACKING_USERNAME"),
        (403, StoreRefusedError, "EDIT permission"),
        (404, StoreRefusedError, "--static-prefix"),
        (400, StoreRefusedError, "write https://"),
        (405, StoreRefusedError, "where a proxy redirects http:// to https://, write https://"),
        (413, StoreRefusedError, "client_max_body_size"),
        (418, StoreRefusedError, "418"),
        (429, StoreUnavailableError, "too often"),
        (500, StoreUnavailableError, "500"),
        (502, StoreUnavailableError, "the server behind it is away"),
        (503, StoreUnavailableError, "not ready"),
        (504, StoreUnavailableError, "in time"),
    ],
)
def test_a_web_page_instead_of_an_answer(web: str, code: int, kind: type[StoreError], words: str) -> None:
    """Proxies, prefixes and login pages answer for MLflow."""
    error = fault_of(MlflowRun(f"{web}/{code}", RUN).info)

    assert type(error) is kind
    assert words in str(error)


def test_a_batch_that_a_proxy_does_not_take_is_the_batchs_fault(web: str) -> None:
    """A smaller one may pass."""
    assert type(fault_of(lambda: MlflowRun(f"{web}/413", RUN).set_tags({"a": "b"}))) is ItemRefusedError


@pytest.mark.parametrize(
    ("uri", "kind", "words"),
    [
        ("http://127.0.0.1:9", StoreUnavailableError, "connection refused"),
        ("http://no-such-host.invalid", StoreUnavailableError, "host name"),
        ("postgresql://u:secret@127.0.0.1:9/db", StoreUnavailableError, "refused"),
        ("htp://host", StoreRefusedError, "not a tracking URI"),
        ("http://[bad", StoreRefusedError, "not a tracking URI"),
        slow("databricks", StoreRefusedError, "DATABRICKS_HOST"),
        slow("databricks://no-profile", StoreRefusedError, "DATABRICKS_HOST"),
        ("databricks-uc", StoreRefusedError, "MLFLOW_REGISTRY_URI"),
    ],
)
def test_an_address_that_leads_nowhere(
    uri: str, kind: type[StoreError], words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No flood of warnings, and no password in the line."""
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", os.devnull)
    error = fault_of(lambda: MlflowRun(uri, RUN).info())

    assert type(error) is kind
    assert words in str(error)
    assert "secret" not in str(error)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("uri", ["databricks", "databricks://work"])
def test_a_databricks_workspace_that_is_away_is_an_outage_at_once(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the environment or by a profile; its own client would try for five minutes at each call."""
    (tmp_path / "cfg").write_text("[work]\nhost = https://127.0.0.1:9/\ntoken = dapi-of-a-test\n")
    monkeypatch.setenv("DATABRICKS_CONFIG_FILE", str(tmp_path / "cfg"))
    if uri == "databricks":
        monkeypatch.setenv("DATABRICKS_HOST", "127.0.0.1:9")
        monkeypatch.setenv("DATABRICKS_TOKEN", "dapi-of-a-test")
    error = fault_of(lambda: MlflowRun(uri, RUN).info())

    assert type(error) is StoreUnavailableError
    assert "connection refused" in str(error)


def test_plain_http_behind_an_https_address(web: str) -> None:
    """And a certificate that no one signed is another matter."""
    error = fault_of(MlflowRun(web.replace("http:", "https:") + "/200", RUN).info)

    assert type(error) is StoreRefusedError
    assert "use http://" in str(error)
    with pytest.raises(StoreRefusedError, match="MLFLOW_TRACKING_SERVER_CERT_PATH"), translate_mlflow_errors(web):
        raise ssl.SSLCertVerificationError("certificate verify failed: self-signed certificate (_ssl.c:1)")


def test_a_server_that_does_not_answer() -> None:
    """It takes the connection, and that is all."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        error = fault_of(MlflowRun(f"http://127.0.0.1:{deaf.getsockname()[1]}", RUN).info)

    assert type(error) is StoreUnavailableError
    assert "no answer in time" in str(error)


def locked(path: Path) -> object:
    """Another program writes to the database."""
    connection = sqlite3.connect(path)
    connection.execute("begin exclusive")
    return connection


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (
            ["update alembic_version set version_num = 'abcdef012345'"],
            "a newer MLflow made this database|another version",
        ),
        (["update alembic_version set version_num = 'cc1f77228345'"], "mlflow db upgrade"),
        (["delete from alembic_version", "drop table tags"], "delete it"),
    ],
)
def test_a_database_half_made_or_of_another_version(statements: list[str], words: str, sqlite_uri: str) -> None:
    """The line names what to do."""
    with sqlite3.connect("mlflow.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()
    error = fault_of(lambda: MlflowRun(sqlite_uri, RUN).info())

    assert type(error) is StoreRefusedError
    assert any(word in str(error) for word in words.split("|")), str(error)


def test_a_file_that_is_no_database() -> None:
    """It is left as it is."""
    Path("notes.db").write_text("hello, this is no database" * 100, encoding="utf-8")
    error = fault_of(lambda: MlflowRun(f"sqlite:///{Path('notes.db').resolve()}", RUN).info())

    assert type(error) is StoreRefusedError
    assert "no sqlite database" in str(error)


def test_a_run_that_is_not_there_and_one_that_is_deleted(sqlite_uri: str) -> None:
    """The first can be made anew, the second be restored."""
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run("0").info.run_id
    client.delete_run(run_id)

    assert type(fault_of(MlflowRun(sqlite_uri, RUN).info)) is RunMissingError
    error = fault_of(lambda: MlflowRun(sqlite_uri, run_id).set_tags({"a": "b"}))
    assert "mlflow runs restore" in str(error)


def torn(path: Path) -> None:
    """The first half of a PNG."""
    from PIL import Image

    Image.fromarray(np.zeros((64, 64), np.uint8)).save(path, "png")
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    "make", [torn, os.mkfifo, Path.mkdir, lambda _: None, lambda path: path.write_text("no picture")]
)
def test_a_picture_that_is_none_is_refused_alone(make: Callable[[Path], object], sqlite_uri: str) -> None:
    """Torn, a pipe, a folder, gone, or text; none of them waits, and the run takes what comes next."""
    run_id = MlflowClient(sqlite_uri).create_run("0").info.run_id
    path = Path("samples_0.png")
    make(path)
    run = MlflowRun(sqlite_uri, run_id)
    error = fault_of(lambda: run.log_image("samples", path, epoch=0, timestamp_ms=1))

    assert type(error) is ItemRefusedError
    assert "samples_0.png" in str(error)
    run.set_tags({"a": "b"})


def test_a_file_that_an_artifact_store_does_not_take(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 without credentials: the item is refused, and the rows are not concerned."""
    pytest.importorskip("boto3", reason="needs boto3: pip install boto3")
    for name, value in {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run(client.create_experiment("s3", "s3://no-bucket/here")).info.run_id
    Path("note.txt").write_text("hello", encoding="utf-8")
    error = fault_of(lambda: MlflowRun(sqlite_uri, run_id).log_file(Path("note.txt"), "metrics"))

    assert type(error) is ItemRefusedError
    assert "credentials" in str(error)


def test_other_threads_logs_are_not_touched(sqlite_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    """What MLflow logs is kept out of our calls only."""
    with translate_mlflow_errors(sqlite_uri):
        logging.getLogger("urllib3.connectionpool").warning("ours")
        thread = threading.Thread(target=logging.getLogger("urllib3.connectionpool").warning, args=("theirs",))
        thread.start()
        thread.join()
    logging.getLogger("urllib3.connectionpool").warning("after")

    assert [record.getMessage() for record in caplog.records if record.name.startswith("urllib3")] == [
        "theirs",
        "after",
    ]


def test_mlflow_still_has_the_function_that_bounds_its_answers(web: str) -> None:
    """It is private; under another name there would be no bound, and nothing would show it."""
    from mlflow.utils import request_utils

    with translate_mlflow_errors(web):
        pass
    assert request_utils._get_request_session.is_bounded
