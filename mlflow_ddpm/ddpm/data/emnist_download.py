"""Fetches EMNIST's archive: goes on where a connection broke, and takes the name only when every byte is right.

What has come lies in ``gzip.zip.part``; an interrupted command, run again, goes on from there. Several processes, or
nodes that share a disk, take turns, and the later ones find the file.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

from mlflow_ddpm.core.atomic_file import flush_directory
from mlflow_ddpm.core.errors import DataError, UsageError
from mlflow_ddpm.ddpm.data.emnist_files import ARCHIVE_NAME

__all__ = ["EMNIST", "Archive", "check_offer", "fetch_archive"]

Progress = Callable[[int, int], None]  # bytes that are there, bytes in all


class Archive(NamedTuple):
    """A file on the web, and how to know that it is the right one."""

    url: str
    size: int  # bytes
    sha256: str


# The address is the one that NIST's page of the data set links to, https://www.nist.gov/itl/products-and-services/
# emnist-dataset, and that torchvision uses since 0.18 (pytorch/vision pull request 8350). NIST publishes no checksum:
# size and SHA-256 are those that tensorflow/datasets records in tensorflow_datasets/url_checksums/emnist.txt.
EMNIST = Archive(
    url="https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
    size=561_753_746,
    sha256="fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
)

_TIMEOUT_SEC = 30.0  # without a byte
_PORTION = 2**18
_PAUSES_SEC = (1.0, 2.0, 5.0, 10.0, 20.0)  # between tries that brought nothing; one that brought some starts anew
_OK, _PARTIAL, _RANGE_REFUSED = 200, 206, 416
_MAY_PASS = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be others a moment later


def fetch_archive(
    folder: Path,
    archive: Archive = EMNIST,
    *,
    progress: Progress | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Path:
    """Return the archive's path below ``folder``, fetched if it is not there.

    Raises:
        UsageError: the address is none.
        DataError: the server cannot be reached, refuses, or has another file; or there is no room. What has come is
            kept, and the same call goes on from there, unless it is the wrong file.
    """
    from filelock import FileLock

    _check_address(archive)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{ARCHIVE_NAME}.lock"):
            target = folder / ARCHIVE_NAME
            if not target.exists():
                _fetch(target, archive, progress or (lambda *_: None), sleep)
            return target
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror or error}; check room and permissions") from None


def check_offer(folder: Path, archive: Archive = EMNIST) -> None:
    """Check that the archive can be had from its address, and that there is room for it. Nothing is written.

    Raises:
        UsageError: the address is none.
        DataError: the server cannot be reached, refuses, or has another file; or there is no room.
    """
    _check_address(archive)
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    _check_room(there, archive.size - _size(folder / f"{ARCHIVE_NAME}.part"))
    try:
        with _ask(archive) as answer:
            _check_answer(answer, 0, archive)
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"{archive.url} answers with HTTP status {error.code} ({error.reason})") from None
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{archive.url} cannot be reached ({getattr(error, 'reason', error)})") from None


def _ask(archive: Archive) -> http.client.HTTPResponse:
    """Return the answer to HEAD, or, of a server that refuses it, to GET; closed unread it has fetched nothing."""
    head, get = (urllib.request.Request(archive.url, method=method) for method in ("HEAD", "GET"))  # noqa: S310 - the user named it
    try:
        return urllib.request.urlopen(head, timeout=_TIMEOUT_SEC)  # type: ignore[no-any-return] # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        return urllib.request.urlopen(get, timeout=_TIMEOUT_SEC)  # type: ignore[no-any-return] # noqa: S310


def _check_address(archive: Archive) -> None:
    if not archive.url.startswith(("http://", "https://")):
        raise UsageError(f"expected an address such as {EMNIST.url}, got {archive.url!r}")


def _fetch(target: Path, archive: Archive, progress: Progress, sleep: Callable[[float], object]) -> None:
    part = target.with_name(target.name + ".part")
    _check_room(part.parent, archive.size - _size(part))
    failures, most = 0, _size(part)
    while _size(part) != archive.size:
        trouble = _try_once(part, archive, progress)
        failures, most = (failures + 1, most) if _size(part) <= most else (0, _size(part))
        if trouble and failures > len(_PAUSES_SEC):
            raise DataError(
                f"{archive.url} cannot be fetched ({trouble}); {_size(part):,} of {archive.size:,} bytes are kept, and "
                "the same command goes on from there. Offline, fetch it elsewhere and name it with --data-dir"
            )
        if trouble and failures:
            sleep(_PAUSES_SEC[failures - 1])
    _check_sum(part, archive)
    part.replace(target)
    flush_directory(target.parent)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(f"{folder} has {free:,} bytes free, the archive needs {needed:,}; make room, or choose another")


def _try_once(part: Path, archive: Archive, progress: Progress) -> str:
    """Fetch what is missing, or some of it; return what went wrong if that may pass, else nothing.

    Raises:
        DataError: what went wrong will not pass.
    """
    have = _size(part)
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SEC) as answer:  # noqa: S310 - the user named it
            at = _check_answer(answer, have, archive)
            _receive(answer, part, at, archive, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _RANGE_REFUSED:
            part.unlink()  # longer than what is there: not of this file
            return "what had come was not of this file"
        if error.code not in _MAY_PASS:
            raise DataError(
                f"{archive.url} was refused with HTTP status {error.code} ({error.reason}); check the address, or name "
                "another with --download URL"
            ) from None
        return f"HTTP status {error.code}"
    except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, ConnectionError, TimeoutError) as error:
        return str(getattr(error, "reason", "") or error or type(error).__name__)
    return "the connection broke" if _size(part) < archive.size else ""


def _check_answer(answer: http.client.HTTPResponse, have: int, archive: Archive) -> int:
    """Return the position of the answer's first byte.

    Raises:
        DataError: it is another file.
    """
    at, length = 0, answer.headers.get("Content-Length")
    total = int(length) if length and length.isdigit() else None
    if answer.status == _PARTIAL:
        told = answer.headers.get("Content-Range", "").removeprefix("bytes ")  # "5-9/10"
        at = have if told.startswith(f"{have}-") else 0
        total = int(told.rpartition("/")[2]) if told.rpartition("/")[2].isdigit() else None
        if not told.startswith(f"{have}-"):
            raise DataError(
                f"{archive.url} was asked for bytes from {have}, got {told!r}; name another with --download URL"
            )
    if total not in (None, archive.size):
        kind = answer.headers.get_content_type()
        raise DataError(
            f"{archive.url} is not EMNIST's archive: expected {archive.size:,} bytes, got {total:,} ({kind}); name "
            "another address with --download URL"
        )
    return at


def _receive(answer: IO[bytes], part: Path, at: int, archive: Archive, progress: Progress) -> None:
    with part.open("r+b" if at else "wb") as file:  # a server that ignores the range sends all of it again
        file.seek(at)
        while portion := answer.read(_PORTION):
            if at + len(portion) > archive.size:
                file.truncate(0)
                raise DataError(f"{archive.url} sends more than {archive.size:,} bytes; it is not EMNIST's archive")
            file.write(portion)
            at += len(portion)
            progress(at, archive.size)


def _check_sum(part: Path, archive: Archive) -> None:
    with part.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != archive.sha256:
        part.unlink()
        raise DataError(
            f"{archive.url} brought a damaged file: expected SHA-256 {archive.sha256}, got {got}; it was deleted, "
            "fetch it again"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
