"""Fetches EMNIST's archive into ``gzip.zip.part``, resumes it after a break, renames it once its SHA-256 is right."""

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
from filelock import FileLock

from mlflow_ddpm.core.errors import DataError, UsageError, error_chain
from mlflow_ddpm.ddpm.data.emnist_files import ARCHIVE_NAME, EMNIST, Archive

_PAUSES_SEC = (0, 1, 1, 2, 2, 5, 5, 10, 10, 20)  # before each try
_PARTIAL, _PASSING = 206, (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses; these may be others in a moment
Hook = Callable[..., object]


def fetch_archive(folder: Path, archive: Archive = EMNIST, *, progress: Hook = min, sleep: Hook = time.sleep) -> Path:
    """Return the archive's path, fetched if it is not in ``folder``; ``progress`` gets the bytes there and in all.

    Processes that share the disk take turns. Raises UsageError for a bad address, DataError if server or disk refuse.
    """
    target, part = folder / ARCHIVE_NAME, folder / f"{ARCHIVE_NAME}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{ARCHIVE_NAME}.lock"):
            if not target.exists():
                part.touch()
                _fetch(part, archive, progress, sleep)
                part.replace(target)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror or error}; check room and permissions") from None
    return target


def check_offer(folder: Path, archive: Archive = EMNIST) -> None:
    """Check that the address has the archive and the disk has room, write nothing; raises as fetch_archive does."""
    try:
        with _open(folder / f"{ARCHIVE_NAME}.part", archive):  # the content stays unread
            return
    except requests.RequestException as error:
        raise DataError(f"{archive.url} cannot be reached ({[*error_chain(error)][-1]}); try again later") from None


def _fetch(part: Path, archive: Archive, progress: Hook, sleep: Hook) -> None:
    cause, pauses = "", iter(_PAUSES_SEC)
    while (have := part.stat().st_size) < archive.size:
        if (pause := next(pauses, None)) is None:
            raise DataError(f"{archive.url}: {cause}; {have:,} bytes are kept: run it again, or name a --data-dir")
        sleep(pause)
        cause = "the connection broke"
        try:
            with _open(part, archive) as answer, part.open("ab" if answer.status_code == _PARTIAL else "wb") as file:
                for portion in answer.iter_content(2**16):
                    progress(file.tell() + file.write(portion), archive.size)
                    if file.tell() > archive.size:
                        break  # the checksum refuses it
        except requests.RequestException as error:
            cause = str([*error_chain(error)][-1])
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != archive.sha256:
        part.unlink()
        raise DataError(f"{archive.url}: expected SHA-256 {archive.sha256}, got {digest}; deleted, fetch it again")


@contextlib.contextmanager
def _open(part: Path, archive: Archive) -> Iterator[requests.Response]:
    have = part.stat().st_size if part.exists() else 0
    free = shutil.disk_usage(next(place for place in part.absolute().parents if place.exists())).free
    if not re.match("https?://[^/]", archive.url):
        raise UsageError(f"--download: expected an address such as {EMNIST.url}, got {archive.url!r}")
    if free + have < archive.size:
        raise DataError(f"{part.parent} has {free:,} bytes free, the archive needs {archive.size - have:,}; make room")
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(archive.url, headers=headers, stream=True, timeout=30) as answer:
        if answer.status_code in _PASSING:
            raise requests.HTTPError(f"HTTP status {answer.status_code}")
        start = have if answer.status_code == _PARTIAL else 0
        size = start + int(answer.headers.get("Content-Length", archive.size - start))
        if not answer.ok or size != archive.size:
            got = f"HTTP status {answer.status_code} ({answer.reason}) and {size:,} bytes; change --download URL"
            raise DataError(f"expected EMNIST's archive of {archive.size:,} bytes at {archive.url}, got {got}")
        yield answer
