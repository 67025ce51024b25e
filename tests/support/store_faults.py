"""What the fault tests share: an HTTP front that misbehaves on demand, and the comparison of a store with a mirror."""

from __future__ import annotations

import csv
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mlflow_ddpm import MetricsTracker

Points = dict[str, list[tuple[int, float, int]]]  # metric -> (step, value, timestamp), sorted
_HOP_HEADERS = ("connection", "keep-alive", "transfer-encoding", "content-length", "server", "date", "host")
_STALL_SEC = 60.0  # of a front that hangs, at most; it lets go as soon as its mode changes


class Front:
    """An HTTP server on loopback in front of another, in one of several moods.

    pass: hand everything on. refuse: nobody listens. hang: accept, never answer. cut: hand on, then drop the answer.
    slow: answer a byte at a time. garbage: 200 and a page of HTML. token: hand on what bears the right token, else 401.
    A number: that HTTP status.
    """

    def __init__(self, upstream: str = "", token: str = "") -> None:
        self.upstream, self.token = urlsplit(upstream).netloc, token
        self.mood: str | int = "pass"
        self.file_mood: str | int = "pass"  # of requests to the artifact store
        self.poison = b""  # what a request holds that is answered with 500
        self.requests = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._serve()

    def become(self, mood: str | int) -> None:
        """Change the mood; what hangs is let go."""
        if mood == "refuse" and self.mood != "refuse":
            self._stop()
        elif self.mood == "refuse" and mood != "refuse":
            self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
            self._serve()
        self.mood = mood

    def fail_files(self, mood: str | int) -> None:
        """Change the mood of the artifact store alone."""
        self.file_mood = mood

    def close(self) -> None:
        """Stop."""
        self.become("refuse")

    def _serve(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _stop(self) -> None:
        self.mood = "refuse"
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        front = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                front.answer(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request in the present mood."""
        self.requests += 1
        body = request.rfile.read(int(request.headers.get("content-length") or 0))
        is_file = "/mlflow-artifacts/" in request.path
        mood = self.file_mood if is_file and self.mood == "pass" else self.mood
        try:
            if mood == "hang":
                self._wait_while(mood)
            elif mood == "slow":
                self._drip(request)
            elif self.poison and self.poison in request.path.encode() + body:
                _reply(request, 500, b"no", "text/plain")
            elif isinstance(mood, int):
                _reply(request, mood, b"no", "text/plain")
            elif mood == "garbage":
                _reply(request, 200, b"<html><body>Please log in to the hotel's network</body></html>", "text/html")
            elif mood == "token" and request.headers.get("authorization") != f"Bearer {self.token}":
                _reply(request, 401, b"who are you?", "text/plain")
            elif mood in ("pass", "token", "cut"):
                self._hand_on(request, body, drop=mood == "cut")
        except OSError:
            return  # the client has given up

    def _wait_while(self, mood: str) -> None:
        deadline = time.monotonic() + _STALL_SEC
        while mood in (self.mood, self.file_mood) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _drip(self, request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
        deadline = time.monotonic() + _STALL_SEC
        while self.mood == "slow" and time.monotonic() < deadline:
            request.wfile.write(b" ")
            request.wfile.flush()
            time.sleep(0.2)

    def _hand_on(self, request: BaseHTTPRequestHandler, body: bytes, *, drop: bool) -> None:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_HEADERS}
        connection = http.client.HTTPConnection(self.upstream, timeout=30)
        try:
            connection.request(request.command, request.path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if not drop:
            _reply(request, answer.status, content, answer.headers.get("content-type") or "application/json")


def _reply(request: BaseHTTPRequestHandler, status: int, body: bytes, kind: str) -> None:
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


@contextmanager
def front_of(upstream: str = "", token: str = "") -> Iterator[Front]:
    """A front for the length of a block."""
    front = Front(upstream, token)
    try:
        yield front
    finally:
        front.close()


class Played(NamedTuple):
    """How a training went, as its thread saw it."""

    tracker: MetricsTracker
    construction_sec: float
    stall_sec: float  # the longest single call between construction and close
    close_sec: float


def play(
    directory: str | Path,
    *,
    epochs: int = 6,
    at: Callable[[int], object] = lambda _: None,
    close_sec: float = 2.0,
    **how: Any,
) -> Played:
    """Train for some epochs of a few milliseconds; ``at`` is called before each, and at the end with -1."""
    began = time.perf_counter()
    tracker = MetricsTracker(directory, **how)
    constructed = time.perf_counter() - began
    stall = 0.0
    for epoch in range(tracker.next_epoch, epochs):
        at(epoch)
        batch = partial(tracker.log_batch, 1.0 / (epoch + 1), lr=0.1, grad_norm=2.0, batch_size=8)
        calls: list[Callable[[], object]] = [partial(tracker.start_epoch, epoch), *[batch] * 5, tracker.end_epoch]
        for call in calls:
            began = time.perf_counter()
            call()
            stall = max(stall, time.perf_counter() - began)
        time.sleep(0.01)
    at(-1)
    began = time.perf_counter()
    tracker.close(timeout=close_sec)
    return Played(tracker, constructed, stall, time.perf_counter() - began)


def points_on_disk(directory: str | Path) -> Points:
    """Return what a store should have, from the CSV as the standard library reads it."""
    points: Points = {}
    with (Path(directory) / "training_metrics.csv").open(newline="", encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            for name, cell in cells.items():
                if cell and name not in ("epoch", "logged_at_ms"):
                    point = (int(cells["epoch"]), float(cell), int(cells["logged_at_ms"]))
                    points.setdefault(name, []).append(point)
    return {name: sorted(found) for name, found in points.items()}


def points_in_store(tracking_uri: str, run_id: str | None) -> Points:
    """Return every point that the store has of a run, doubles included."""
    from mlflow import MlflowClient

    assert run_id
    client = MlflowClient(tracking_uri)
    keys = [key for key in client.get_run(run_id).data.metrics if not key.startswith("summary/")]  # of the run
    return {key: sorted((p.step, p.value, p.timestamp) for p in client.get_metric_history(run_id, key)) for key in keys}
