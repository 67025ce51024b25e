"""Where EMNIST's official files lie: in the archive that NIST offers, in its unpacked folder, or loose, gzip'd or not.

The archive is read in place; nothing is unpacked to disk.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from io import BufferedIOBase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from mlflow_ddpm.core.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ARCHIVE_NAME", "EMNIST", "Archive", "OfficialFile", "SplitFiles", "find_split", "has_split", "read_idx"]

ARCHIVE_NAME = "gzip.zip"  # as NIST names it; it holds one folder, gzip/


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

_MOST_SHRUNK = 1100  # deflate, of zip and of gzip, cannot shrink more than 1032-fold
_REMEDY = "fetch it again"
_UNSIGNED_BYTE = 0x08  # IDX's code of the type
_PORTION = 2**20  # gzip makes each portion twice, so all at once would double the memory


class OfficialFile(NamedTuple):
    """One file, wherever it lies."""

    where: str  # for messages: its path, or the archive's path and its name in there
    most_bytes: int  # that it can hold, going by what it takes on disk
    unpacked: Callable[[], AbstractContextManager[BufferedIOBase]]

    @contextlib.contextmanager
    def open(self) -> Iterator[BufferedIOBase]:
        """Open it for reading, unzipped.

        Raises:
            DataError: then, or while it is read: it is gone, cut short or damaged.
        """
        try:
            with self.unpacked() as file:
                yield file
        except EOFError:
            raise DataError(f"{self.where} is cut short: its gzip stream has no end; {_REMEDY}") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{self.where} is not a sound gzip file ({error}); {_REMEDY}") from None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{self.where} cannot be unzipped ({error}); {_REMEDY}") from None
        except OSError as error:
            raise DataError(
                f"{self.where} cannot be read: {error.strerror or error}; check the disk and permissions"
            ) from None


class SplitFiles(NamedTuple):
    """The five files of a split."""

    train_images: OfficialFile
    train_labels: OfficialFile
    test_images: OfficialFile
    test_labels: OfficialFile
    mapping: OfficialFile


def find_split(place: Path, split: str) -> SplitFiles:
    """Return the files of a split: ``place`` is the archive, or a folder with the files, ``gzip/`` or the archive.

    Raises:
        DataError: some are missing, or the archive is damaged.
    """
    names = _names(split)
    candidates = [(place, _in_archive(place))] if place.is_file() else _in_folder(place)
    where, found = max(candidates, key=lambda candidate: len(names & candidate[1].keys()))
    missing = sorted(names - found.keys())
    if missing:
        raise DataError(
            f"expected the official files of EMNIST {split} in {where}, missing {', '.join(missing)}; name the folder "
            f"that has them, or EMNIST's {ARCHIVE_NAME}, with --data-dir, or fetch it with --download"
        )
    stem = f"emnist-{split}"
    return SplitFiles(
        found[f"{stem}-train-images-idx3-ubyte"],
        found[f"{stem}-train-labels-idx1-ubyte"],
        found[f"{stem}-test-images-idx3-ubyte"],
        found[f"{stem}-test-labels-idx1-ubyte"],
        found[f"{stem}-mapping.txt"],
    )


def has_split(place: Path, split: str) -> bool:
    """Say whether all files of a split are there, sound or not."""
    try:
        return bool(find_split(place, split))
    except DataError:
        return False


def _names(split: str) -> set[str]:
    parts = [f"{part}-{kind}-ubyte" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")]
    return {f"emnist-{split}-{name}" for name in (*parts, "mapping.txt")}


def _in_folder(folder: Path) -> list[tuple[Path, Mapping[str, OfficialFile]]]:
    candidates: list[tuple[Path, Mapping[str, OfficialFile]]] = [(p, _loose(p)) for p in (folder, folder / "gzip")]
    archive = folder / ARCHIVE_NAME
    return [*candidates, (archive, _in_archive(archive))] if archive.is_file() else candidates


def _loose(folder: Path) -> dict[str, OfficialFile]:
    """Return the folder's files by their names without ``.gz``; of two, the one without is taken: it reads faster."""
    paths = sorted(folder.glob("emnist-*"), key=lambda path: len(path.name), reverse=True) if folder.is_dir() else []
    return {path.name.removesuffix(".gz"): _of_path(path) for path in paths if path.is_file()}


def _of_path(path: Path) -> OfficialFile:
    size = path.stat().st_size
    if path.suffix == ".gz":
        return OfficialFile(str(path), size * _MOST_SHRUNK, lambda: gzip.open(path, "rb"))
    return OfficialFile(str(path), size, lambda: path.open("rb"))


def _in_archive(archive: Path) -> dict[str, OfficialFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [info for info in opened.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"expected a folder or EMNIST's {ARCHIVE_NAME}, but {archive} is no sound zip file ({error}); delete "
            "it and fetch it again"
        ) from None
    return {Path(info.filename).name.removesuffix(".gz"): _of_member(archive, info) for info in members}


def _of_member(archive: Path, info: zipfile.ZipInfo) -> OfficialFile:
    size = min(info.file_size, archive.stat().st_size * _MOST_SHRUNK)
    is_gzip = info.filename.endswith(".gz")
    return OfficialFile(
        f"{archive}/{info.filename}",
        size * _MOST_SHRUNK if is_gzip else size,
        lambda: _unpack(archive, info.filename, is_gzip=is_gzip),
    )


@contextlib.contextmanager
def _unpack(archive: Path, name: str, *, is_gzip: bool) -> Iterator[BufferedIOBase]:
    with zipfile.ZipFile(archive) as opened, opened.open(name) as member:
        if not is_gzip:
            yield cast("BufferedIOBase", member)
            return
        with gzip.GzipFile(fileobj=member) as file:
            yield file


def read_idx(source: OfficialFile, dims: int) -> NDArray[np.uint8]:
    """Return the bytes of an IDX file, the format of MNIST, as an array of its ``dims`` sizes, in memory of its own.

    Its sizes are checked against what follows them, and nothing large is allocated on the word of the header alone.

    Raises:
        DataError: the file is missing, damaged, not IDX of unsigned bytes with ``dims`` sizes, or cut or too long.
    """
    with source.open() as file:
        shape = _read_shape(source.where, file, dims)
        data = _read_bytes(source, file, math.prod(shape))
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_shape(where: str, file: BufferedIOBase, dims: int) -> tuple[int, ...]:
    expected = bytes([0, 0, _UNSIGNED_BYTE, dims])
    magic = file.read(4)
    if magic != expected:
        kind = "images" if dims == 3 else "labels"  # noqa: PLR2004 - IDX images: count, rows, columns
        raise DataError(
            f"{where} is not an IDX file of {kind}: expected it to begin with {expected.hex()}, got "
            f"{magic.hex() or 'nothing'}; check that images and labels are not exchanged, or {_REMEDY}"
        )
    sizes = file.read(4 * dims)
    if len(sizes) < 4 * dims:
        raise DataError(
            f"{where} is cut short: expected a header of {4 + 4 * dims} bytes, got {4 + len(sizes)}; {_REMEDY}"
        )
    return tuple(int.from_bytes(sizes[i : i + 4], "big") for i in range(0, 4 * dims, 4))


def _read_bytes(source: OfficialFile, file: BufferedIOBase, size: int) -> bytearray:
    """Read exactly ``size`` bytes into one block of memory, which the array then shares."""
    if size > source.most_bytes:
        raise DataError(
            f"{source.where} is cut short: its header promises {size} bytes, more than it can hold at its size; "
            f"{_REMEDY}"
        )
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size and (count := file.readinto(view[filled : filled + _PORTION])):
        filled += count
    if filled < size:
        raise DataError(f"{source.where} is cut short: its header promises {size} bytes, got {filled}; {_REMEDY}")
    if file.read(1):
        raise DataError(f"{source.where} is too long: its header promises {size} bytes, more follow; {_REMEDY}")
    return data
