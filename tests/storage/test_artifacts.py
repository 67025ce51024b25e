"""A run's artifacts, listed and fetched from real stores: what is there, where it goes, and how much is taken."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_ddpm.core.errors import MirrorError, StoreUnavailableError
from mlflow_ddpm.storage.artifacts import Artifact, Artifacts
from mlflow_ddpm.storage.mlflow_run import MlflowRun

CONTENT = {"metrics/a.txt": b"a", "metrics/samples/b.bin": b"bb" * 500, "other/c.txt": b"ccc", "metrics/.hidden": b"d"}


def run_with_files(uri: str) -> MlflowRun:
    """A run that has the files above."""
    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    for name, content in CONTENT.items():
        path = Path("made") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        client.log_artifact(run_id, str(path), str(Path(name).parent))
    return MlflowRun(uri, run_id)


def test_a_folders_files_are_listed_with_sizes_and_fetched_below_a_directory(store_uri: str, tmp_path: Path) -> None:
    """Those of its folders on request alone; hidden ones never."""
    artifacts = Artifacts(run_with_files(store_uri))
    deep = sorted(artifacts.find("metrics", is_deep=True))

    paths = artifacts.fetch(deep, tmp_path / "into")

    assert artifacts.find("metrics") == [Artifact("metrics/a.txt", 1)]
    assert deep == [Artifact("metrics/a.txt", 1), Artifact("metrics/samples/b.bin", 1000)]
    assert [path.read_bytes() for path in paths] == [CONTENT[artifact.path] for artifact in deep]
    assert paths == [tmp_path / "into" / artifact.path for artifact in deep]
    assert artifacts.find("nothing") == []


def test_more_bytes_than_expected_are_not_fetched(store_uri: str, tmp_path: Path) -> None:
    """The message names MLflow's own command."""
    artifacts = Artifacts(run_with_files(store_uri), max_bytes=100)

    with pytest.raises(MirrorError, match=r"more than 0 GiB; fetch them with `mlflow artifacts download"):
        artifacts.fetch(artifacts.find("metrics/samples"), tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_links_in_a_store_on_this_machine_are_left_out(store_uri: str, tmp_path: Path) -> None:
    """A file elsewhere is not brought here by one."""
    run = run_with_files(store_uri)
    root = Path(MlflowClient(store_uri).get_run(run.run_id).info.artifact_uri.removeprefix("file://"))
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (root / "metrics/linked.txt").symlink_to(tmp_path / "secret.txt")

    assert [file.name for file in Artifacts(run).find("metrics")] == ["a.txt"]


@pytest.mark.parametrize("greeting", [b"", b"220 hello\r\n"], ids=["silent", "greets"])
def test_an_ftp_server_that_never_answers_holds_nothing_up(
    greeting: bytes, sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's FTP client waits for ever; neither a list, nor a download, nor an upload does."""
    for module in ("artifacts", "mlflow_run"):
        monkeypatch.setattr(f"mlflow_ddpm.storage.{module}.ANSWER_SEC", 0.1)
    with _ftp_server(greeting) as port:
        client = MlflowClient(sqlite_uri)
        place = f"ftp://ann@127.0.0.1:{port}/files"
        run = MlflowRun(sqlite_uri, client.create_run(client.create_experiment("x", place)).info.run_id)
        artifacts = Artifacts(run)
        (tmp_path / "a.txt").touch()

        for call in (
            lambda: artifacts.find("metrics"),
            lambda: artifacts.fetch([Artifact("metrics/a.txt", 1)], tmp_path / "into"),
            lambda: run.log_file(tmp_path / "a.txt", "metrics"),
        ):
            with pytest.raises(StoreUnavailableError, match="no answer in time"):
                call()


@contextlib.contextmanager
def _ftp_server(greeting: bytes) -> Iterator[int]:
    """Give the port of a server that takes every connection, says hello, and nothing more."""
    before = set(threading.enumerate())
    connections: list[socket.socket] = []

    def greet() -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(server.accept()[0])
                connections[-1].sendall(greeting)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=greet, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)  # ends accept()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # ftplib leaves its socket open when the server goes
        for connection in connections:
            connection.close()
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        gc.collect()
