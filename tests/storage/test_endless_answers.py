"""A server whose answers have no end costs a bounded time and memory, and ends in one line.

The server is a real HTTP server that speaks as much of MLflow's API as reading a run needs.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.common import slow

from mlflow_ddpm import publish_run, read_history
from mlflow_ddpm.core.errors import HistoryError, MirrorError, StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.publishing.download import download_run
from mlflow_ddpm.storage.artifacts import Artifact, Artifacts
from mlflow_ddpm.storage.mlflow_run import MlflowRun

RUN_ID = "0123456789abcdef0123456789abcdef"
POINT = {"key": "loss_mean", "value": 1.0, "timestamp": 1, "step": 0}


class Server:
    """Answers as a test wants it to."""

    def __init__(self) -> None:
        self.metrics = ["loss_mean", "epoch_time_sec"]
        self.page: Callable[[], dict[str, Any]] = lambda: {"metrics": [POINT]}
        self.files: list[dict[str, Any]] = []
        self.artifacts = f"mlflow-artifacts:/0/{RUN_ID}/artifacts"
        self.padding = 0  # bytes of white space that follow each answer
        self.drips = False  # they come one by one
        self.status = 200
        self.requests = 0

    def answer(self, path: str) -> dict[str, Any]:
        """Return the JSON of an answer."""
        self.requests += 1
        if "get-history" in path:
            return self.page()
        if "mlflow-artifacts" in path:
            return {"files": self.files}
        if "experiments/get" in path:
            return {"experiment": {"experiment_id": "0", "name": "Default", "lifecycle_stage": "active"}}
        info: dict[str, object] = {
            "run_id": RUN_ID,
            "experiment_id": "0",
            "status": "FINISHED",
            "lifecycle_stage": "active",
        }
        info |= {"artifact_uri": self.artifacts, "run_name": "endless", "start_time": 1}
        return {"run": {"info": info, "data": {"metrics": [{**POINT, "key": key} for key in self.metrics]}}}


@pytest.fixture
def server() -> Iterator[tuple[Server, str]]:
    """A server and its address."""
    answers = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else each body waits 40 ms for the other side to acknowledge the headers

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            content = json.dumps(answers.answer(self.path)).encode()
            self.send_response(answers.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", str(len(content) + answers.padding))
            self.end_headers()
            self.wfile.write(content)
            with contextlib.suppress(OSError):  # the client has seen enough
                for _ in range(200 if answers.drips else 0):
                    self.wfile.write(b" ")
                    time.sleep(0.1)
                for _ in range(answers.padding >> 20):
                    self.wfile.write(b" " * 2**20)

        do_POST = do_PUT = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, *_args: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        yield answers, f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize("points", [slow([]), slow([POINT]), [POINT] * 100], ids=["empty", "one", "many"])
def test_pages_without_end_are_refused(server: tuple[Server, str], points: list[dict[str, Any]]) -> None:
    """Whatever the pages hold, a token that leads on for ever is followed a few hundred times."""
    answers, uri = server
    answers.page = lambda: {"metrics": points, "next_page_token": f"page {answers.requests}"}

    with pytest.raises(HistoryError, match=r"more than 200 pages of the metric '\w+'"):
        read_history(RUN_ID, tracking_uri=uri)
    assert answers.requests < 300


@pytest.mark.parametrize("read", [read_history, publish_run])
def test_metrics_without_number_are_refused_before_their_points_are_read(
    server: tuple[Server, str], read: Callable[..., object]
) -> None:
    """Each would be a request of its own."""
    answers, uri = server
    answers.metrics = ["loss_mean", *(f"extra_{i}" for i in range(10_001))]

    with pytest.raises(HistoryError, match="10,002 metrics in MLflow; at most 10,000 are read"):
        read(RUN_ID, tracking_uri=uri)
    assert answers.requests < 20


@pytest.mark.parametrize(("is_dir", "count"), [(True, 201), (False, 20_001)], ids=["folders", "files"])
def test_artifacts_without_end_are_refused(server: tuple[Server, str], is_dir: object, count: int) -> None:
    """Folders that hold folders, and a folder of more files than a run has."""
    answers, uri = server
    answers.files = [{"path": f"a{i}", "is_dir": is_dir, "file_size": 1} for i in range(count)]

    with pytest.raises(MirrorError, match="no run of mlflow_ddpm has so much"):
        download_run(RUN_ID, "copy", tracking_uri=uri)
    assert answers.requests < 20


def test_folders_within_folders_without_end_are_refused(server: tuple[Server, str]) -> None:
    """Each answer has one more."""
    answers, uri = server
    answers.files = [{"path": "deeper", "is_dir": True}]

    with pytest.raises(MirrorError, match="no run of mlflow_ddpm has so much"):
        download_run(RUN_ID, "copy", tracking_uri=uri)
    assert answers.requests < 300


@pytest.mark.parametrize("read", [read_history, publish_run])
def test_one_answer_without_end_is_refused(server: tuple[Server, str], read: Callable[..., object]) -> None:
    """A gigabyte after a good beginning is not read to its end."""
    answers, uri = server
    answers.padding = 2**30

    with pytest.raises(StoreRefusedError, match="answered with more than 32 MiB"):
        read(RUN_ID, tracking_uri=uri)


@pytest.mark.parametrize("read", [read_history, lambda run, **how: download_run(run, "copy", **how)])
@pytest.mark.parametrize("status", [200, 503])
def test_a_server_that_sends_a_byte_now_and_then_or_wants_an_hour_is_given_up(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch, read: Callable[..., object], status: int
) -> None:
    """Each byte is within MLflow's time-out; the whole answer is not."""
    answers, uri = server
    answers.drips, answers.padding, answers.status = status == 200, 2**20 * (status == 200), status
    monkeypatch.setattr("mlflow_ddpm.storage.mlflow_requests.ANSWER_SEC", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    began = time.monotonic()

    with pytest.raises(StoreUnavailableError, match=r"did not send its whole answer within 3 s|not ready \(503\)"):
        read(RUN_ID, tracking_uri=uri)
    assert time.monotonic() - began < 60


def test_a_file_that_comes_byte_by_byte_is_given_up(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file of any size may come as slowly as a bad line brings it, and no slower."""
    answers, uri = server
    found = Artifacts(MlflowRun(uri, RUN_ID))
    answers.drips, answers.padding = True, 2**20
    monkeypatch.setattr("mlflow_ddpm.storage.artifacts.ANSWER_SEC", 1.0)

    with pytest.raises(StoreUnavailableError, match=r"metrics/a\.csv comes too slowly"):
        found.fetch([Artifact("metrics/a.csv", 2**20)], tmp_path)


@pytest.mark.parametrize(
    "write",
    [
        lambda run, _: run.log_points([Point("loss_mean", 1.0, 1, 0)]),
        lambda run, _: run.set_tags({"a": "b"}),
        lambda run, _: run.finish("FINISHED", 1),
        lambda run, file: run.log_file(file, "metrics"),
    ],
    ids=["points", "tags", "end", "file"],
)
def test_an_answer_to_what_is_written_that_comes_byte_by_byte_is_given_up(
    server: tuple[Server, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write: Callable[..., object]
) -> None:
    """As an answer that is read: else one of them would keep the uploader for ever."""
    answers, uri = server
    run = MlflowRun(uri, RUN_ID)
    (tmp_path / "a.csv").write_text("a")
    answers.drips, answers.padding = True, 2**20
    monkeypatch.setattr("mlflow_ddpm.storage.mlflow_requests.ANSWER_SEC", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")

    with pytest.raises(StoreUnavailableError, match="did not send its whole answer within 3 s"):
        write(run, tmp_path / "a.csv")


def test_a_file_of_fewer_bytes_than_the_store_lists_is_not_put_in_place(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    """A proxy may cut it, with a length that fits, or none."""
    answers, uri = server
    answers.files = [{"path": "training_report.md", "is_dir": False, "file_size": 100_000}]

    with pytest.raises(StoreUnavailableError, match=r"training_report\.md ended [\d]+ bytes before the 100000"):
        download_run(RUN_ID, tmp_path / "copy", tracking_uri=uri)
    assert not list((tmp_path / "copy").iterdir())


def test_a_count_that_is_no_number_is_left_out(server: tuple[Server, str]) -> None:
    """A stranger's store may have an infinite number of batches."""
    answers, uri = server
    answers.metrics.append("nonfinite_batches")
    answers.page = lambda: {"metrics": [{**POINT, "value": "Infinity"}]}

    assert read_history(RUN_ID, tracking_uri=uri)["loss_mean"].tolist() == [math.inf]


@pytest.mark.parametrize("folder", ["", f"other/{RUN_ID}", f"{RUN_ID}/artifacts/.."])
def test_a_server_that_names_a_folder_of_this_machine_gets_nothing_from_it(
    server: tuple[Server, str], tmp_path: Path, folder: str
) -> None:
    """Unless it is that run's folder, as MLflow names it: on a disk that server and client share."""
    answers, uri = server
    (tmp_path / "files" / folder / "metrics").mkdir(parents=True)
    (tmp_path / "files" / folder / "metrics/training_report.html").write_text("private")
    answers.artifacts = f"file://{tmp_path}/files/{folder}"

    with pytest.raises(StoreRefusedError, match="nothing else on this machine is read or written"):
        download_run(RUN_ID, "copy", tracking_uri=uri)
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(StoreRefusedError, match="nothing else on this machine is read or written"):
        MlflowRun(uri, RUN_ID).log_file(tmp_path / "model.bin", "metrics")
    assert not Path("copy/training_report.html").exists()
    assert not (tmp_path / "files" / folder / "metrics/model.bin").exists()
