"""Fetching EMNIST's archive from a server that breaks off, ignores ranges, errs, lies, or is not there."""

from __future__ import annotations

import hashlib
import io
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from support.emnist_byclass import write_archive

from mlflow_ddpm.cli.main import main
from mlflow_ddpm.cli.progress import download_on
from mlflow_ddpm.core.errors import DataError, UsageError
from mlflow_ddpm.ddpm.data.emnist_download import check_offer, fetch_archive
from mlflow_ddpm.ddpm.data.emnist_files import Archive
from mlflow_ddpm.ddpm.data.loading import load_emnist


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small archive, laid out as NIST's: 400 and 100 images of noise, 0.4 MB."""
    path = tmp_path_factory.mktemp("archive") / "gzip.zip"
    noise = np.random.default_rng(0).integers(0, 256, (500, 28, 28), dtype=np.uint8)
    write_archive(path, "mnist", {"train": 400, "test": 100}, noise)
    return path.read_bytes()


class Server:
    """What a server does and what it was asked: one word an answer, the last one for ever.

    whole: answer as asked. endless: no length, and too much. cut: break off in the middle of what is left. ignore: send
    all, whatever range was asked. A number: that HTTP status. page: a page of HTML, as a moved address
    gives. wrong: bytes of another file. wait: send
    the head alone, and wait until the client has gone.
    """

    def __init__(self, content: bytes, moods: list[str]) -> None:
        self.content, self.moods, self.ranges = content, moods, list[str]()

    def next(self, asked: str) -> str:
        """Note the range that was asked for; return what to do."""
        self.ranges.append(asked)
        return self.moods.pop(0) if len(self.moods) > 1 else self.moods[0]


@contextmanager
def serving(content: bytes, *moods: str) -> Iterator[tuple[Server, Archive]]:
    """Serve the content on loopback, in these moods; yield the server, and the archive that a client would expect."""
    server = Server(content, list(moods))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer as the mood is."""
            asked = self.headers.get("Range", "")
            answer(self, server, server.next(asked), asked)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://127.0.0.1:{listening.server_address[1]}/gzip.zip"
    try:
        yield server, Archive(url, len(content), hashlib.sha256(content).hexdigest())
    finally:
        listening.shutdown()
        listening.server_close()


def answer(request: BaseHTTPRequestHandler, server: Server, mood: str, asked: str) -> None:
    """Send one answer."""
    if mood.isdigit():
        request.send_error(int(mood))
        return
    whole = b"<html>moved</html>" if mood == "page" else server.content[::-1] if mood == "wrong" else server.content
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and mood != "ignore" else 0
    body = whole[start:]
    request.send_response(206 if start else 200)
    if mood == "endless":
        body += b"more" * 100_000
    else:
        request.send_header("Content-Length", str(len(body)))
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
    request.end_headers()
    if mood == "wait":
        request.wfile.flush()
        request.rfile.read(1)
        return
    request.wfile.write(body[: len(body) // 2] if mood == "cut" else body)


@pytest.mark.parametrize("moods", [["whole"], ["cut", "cut", "cut", "whole"], ["503", "cut", "429", "whole"]])
def test_the_archive_is_fetched_whole_and_is_then_read(tmp_path: Path, content: bytes, moods: list[str]) -> None:
    """However often the connection breaks; each try asks for what is missing, and nothing is fetched twice."""
    told: list[tuple[int, int]] = []
    with serving(content, *moods) as (server, archive):
        path = fetch_archive(tmp_path / "new", archive, progress=lambda *at: told.append(at), sleep=lambda _: None)
        again = fetch_archive(tmp_path / "new", archive)
        asked = [int(re.sub(r"\D", "", text) or 0) for text in server.ranges]

    assert path == again == tmp_path / "new" / "gzip.zip"
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == ["gzip.zip"]
    assert len(server.ranges) == len(moods)
    assert asked == sorted(asked)
    assert (asked[-1] > 0) == ("cut" in moods)
    assert told == sorted(told)
    assert told[-1] == (len(content), len(content))
    assert len(load_emnist(tmp_path / "new", "mnist").train.labels) == 400


def test_an_interrupted_command_goes_on_where_it_was(tmp_path: Path, content: bytes) -> None:
    """What has come stays as ``.part``; the next call asks for the rest alone."""

    def interrupt(done: int, _: int) -> None:
        if done > len(content) // 3:
            raise KeyboardInterrupt

    with serving(content, "whole") as (server, archive):
        with pytest.raises(KeyboardInterrupt):
            fetch_archive(tmp_path, archive, progress=interrupt)
        kept = (tmp_path / "gzip.zip.part").stat().st_size
        assert not (tmp_path / "gzip.zip").exists()
        path = fetch_archive(tmp_path, archive)

    assert server.ranges == ["", f"bytes={kept}-"]
    assert path.read_bytes() == content


def test_a_server_that_ignores_ranges_sends_everything_again(tmp_path: Path, content: bytes) -> None:
    """And what had come makes way for it."""
    (tmp_path / "gzip.zip.part").write_bytes(content[:1000])
    with serving(content, "ignore") as (_, archive):
        assert fetch_archive(tmp_path, archive).read_bytes() == content


@pytest.mark.parametrize("size", [1, 1000, 10**6])
def test_what_had_come_of_another_file_makes_way(tmp_path: Path, content: bytes, size: int) -> None:
    """Whether too long or with other bytes: the checksum refuses it, and the same call fetches everything."""
    with serving(content, "whole") as (_, archive):
        (tmp_path / "gzip.zip.part").write_bytes(b"x" * size)
        with pytest.raises(DataError, match=r"expected SHA-256 .*, got"):
            fetch_archive(tmp_path, archive)
        assert fetch_archive(tmp_path, archive).read_bytes() == content


@pytest.mark.parametrize(
    ("moods", "message"),
    [
        (
            ["404"],
            r"expected EMNIST's archive .*, got HTTP status 404 \(Not Found\) .*; change --download URL",
        ),
        (["page"], r"expected EMNIST's archive of [\d,]+ bytes at http.*, got HTTP status 200 \(OK\) and 18 bytes"),
        (["wrong"], "expected SHA-256 .*, got .*; deleted, fetch it again"),
        (["endless"], "expected SHA-256 .*, got .*; deleted, fetch it again"),
        (["503"], r"HTTP status 503; 0 bytes are kept"),
    ],
)
def test_what_will_not_pass_gets_one_line(tmp_path: Path, content: bytes, moods: list[str], message: str) -> None:
    """Nothing bears the archive's name then; waiting is bounded."""
    waited: list[float] = []
    with serving(content, *moods) as (_, archive), pytest.raises(DataError, match=message) as refused:
        fetch_archive(tmp_path, archive, sleep=waited.append)

    assert "\n" not in str(refused.value)
    assert not (tmp_path / "gzip.zip").exists()
    assert sum(waited) < 60


def test_offline_one_line_says_how_to_go_on(tmp_path: Path, content: bytes) -> None:
    """What had come is kept."""
    with serving(content, "whole") as (_, archive):
        pass
    (tmp_path / "gzip.zip.part").write_bytes(content[:1000])

    with pytest.raises(DataError, match=r"Connection refused; 1,000 bytes are kept: run it again.*--data-dir"):
        fetch_archive(tmp_path, archive, sleep=lambda _: None)


def test_no_room_is_said_before_anything_is_fetched(tmp_path: Path, content: bytes) -> None:
    """A petabyte would not fit."""
    with (
        serving(content, "whole") as (server, archive),
        pytest.raises(DataError, match="bytes free, the archive needs"),
    ):
        fetch_archive(tmp_path, archive._replace(size=10**15))

    assert server.ranges == []


def test_an_address_must_be_one(tmp_path: Path) -> None:
    """Files are named with --data-dir."""
    for ask in (fetch_archive, check_offer):  # a dry run
        with pytest.raises(UsageError, match=r"expected an address such as https://.*/gzip.zip, got 'here'"):
            ask(tmp_path, Archive("here", 1, ""))


def test_the_command_fetches_from_the_address_that_it_is_given(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another file than NIST's is refused there, too: a mirror has the same bytes, or it is none."""
    with serving(content, "whole") as (server, archive):
        status = main(["train", "--data", "emnist-mnist", "--data-dir", "new", "--download", archive.url])

    assert (status, server.ranges) == (1, [""])
    shown = capsys.readouterr().err
    assert f"of 561,753,746 bytes at {archive.url}, got HTTP status 200 (OK) and {len(content):,} bytes" in shown


def test_a_dry_run_asks_whether_the_archive_can_be_had(
    content: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And fetches nothing of it."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    arguments = ["train", "--data", "emnist-mnist", "--data-dir", "new", "--dry-run", "--tracking-uri", "store"]
    with serving(content, "whole") as (_, archive):
        check_offer(Path("new"), archive)
        status = main([*arguments, "--download", archive.url])
    shown = capsys.readouterr()

    assert (status, Path("new").exists()) == (1, False)
    assert "data     not there, 562 MB to fetch" in shown.out
    assert "expected EMNIST's archive of 561,753,746 bytes" in shown.err
    with pytest.raises(DataError, match=r"cannot be reached \(.*Connection refused\)"):
        check_offer(Path("new"), archive)


def test_the_check_reads_nothing_of_the_file(content: bytes) -> None:
    """The answer is closed after its head: this server would never send the rest."""
    with serving(content, "wait", "wait", "404") as (server, archive):
        check_offer(Path("new"), archive)
        with pytest.raises(DataError, match="expected EMNIST's archive of 1 bytes"):
            check_offer(Path("new"), archive._replace(size=1))
        with pytest.raises(DataError, match="got HTTP status 404"):
            check_offer(Path("new"), archive)

    assert server.ranges == ["", "", ""]


def test_away_from_a_terminal_progress_is_a_line_every_tenth() -> None:
    """Eleven lines, whatever the number of portions."""
    stream = io.StringIO()
    with download_on(stream) as show:
        for done in range(0, 561_000_001, 1_000_000):
            show(done, 561_000_000)

    assert len(stream.getvalue().splitlines()) == 11
    assert stream.getvalue().splitlines()[5] == "download: 281 of 561 MB"
