"""Where EMNIST's official files lie: in the archive that NIST offers, in its unpacked folder, or loose, gzip'd or not.

The archive is read in place; nothing is unpacked to disk.
"""

import contextlib
import gzip
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from mlflow_ddpm.core.errors import DataError

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

IMAGES, LABELS, MAPPING = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte", "mapping.txt"  # "{}" is train or test
ENDINGS = (*(name.format(part) for part in ("train", "test") for name in (IMAGES, LABELS)), MAPPING)
OfficialFile: TypeAlias = Path | zipfile.Path  # on disk or in the archive, gzip'd or not
_REMEDY = "fetch it again"
_UNSIGNED_BYTE = 0x08  # IDX's code of the type
_PORTION = 2**20  # bytes read at a time: gzip makes each portion twice


@contextlib.contextmanager
def open_unzipped(path: OfficialFile) -> Iterator[IO[bytes]]:
    """Open a file for reading, unzipped; raise DataError if it is gone, cut short or damaged, also while it is read."""
    try:
        with path.open("rb") as file:
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=file) if path.name.endswith(".gz") else file)
    except EOFError:
        raise DataError(f"{path} is cut short: its gzip stream has no end; {_REMEDY}") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a sound gzip file ({error}); {_REMEDY}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} cannot be unzipped ({error}); {_REMEDY}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the disk and permissions") from None


def find_split(place: Path, split: str) -> dict[str, OfficialFile]:
    """Return a split's five files by :data:`ENDINGS`, from the archive or a folder with them, ``gzip/`` or the archive.

    Raises:
        DataError: one is missing.
    """
    names = [f"emnist-{split}-{ending}" for ending in ENDINGS]
    folder, files = max(_candidates(place), key=lambda candidate: len(candidate[1].keys() & set(names)))
    missing = sorted(set(names) - files.keys())
    if missing:
        raise DataError(
            f"expected the official files of EMNIST {split} in {folder}, missing {', '.join(missing)}; name the folder "
            f"that has them, or EMNIST's {ARCHIVE_NAME}, with --data-dir, or fetch it with --download"
        )
    return {ending: files[name] for ending, name in zip(ENDINGS, names, strict=True)}


def _candidates(place: Path) -> list[tuple[Path, dict[str, OfficialFile]]]:
    """Return each place where the files may lie, and the files there by their names without ``.gz``."""
    if place.is_file():
        return [(place, _in_archive(place))]
    candidates = [(folder, _by_name(folder.glob("emnist-*"))) for folder in (place, place / "gzip")]
    archive = place / ARCHIVE_NAME
    return [*candidates, (archive, _in_archive(archive))] if archive.is_file() else candidates


def _in_archive(archive: Path) -> dict[str, OfficialFile]:
    try:
        root = zipfile.Path(archive)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"expected a folder or EMNIST's {ARCHIVE_NAME}, but {archive} is damaged ({error}); delete "
            "it and fetch it again"
        ) from None
    members = list(root.iterdir())
    return _by_name([*members, *(inner for folder in members if folder.is_dir() for inner in folder.iterdir())])


def _by_name(paths: Iterable[OfficialFile]) -> dict[str, OfficialFile]:
    """Return files by their names without ``.gz``; of two, the one without is taken: it reads faster."""
    ordered = sorted(paths, key=lambda path: len(path.name), reverse=True)
    return {path.name.removesuffix(".gz"): path for path in ordered if path.is_file()}


def read_idx(source: OfficialFile, dims: int) -> NDArray[np.uint8]:
    """Return the bytes of an IDX file, the format of MNIST, as an array of its ``dims`` sizes, in memory of its own.

    The sizes are compared with what follows them; memory is taken for what was read, not for what a header promises.

    Raises:
        DataError: the file is missing, damaged, not IDX of unsigned bytes with ``dims`` sizes, or cut or too long.
    """
    data, header = bytearray(), 4 + 4 * dims
    with open_unzipped(source) as file:
        shape = _shape(source, file.read(header), dims)
        size = math.prod(shape)
        while len(data) <= size and (portion := file.read(_PORTION)):
            data += portion
    if len(data) != size:
        problem = f"cut short: its header promises {size} bytes, got {len(data)}"
        if len(data) > size:
            problem = f"too long: its header promises {size} bytes, more follow"
        raise DataError(f"{source} is {problem}; {_REMEDY}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(source: OfficialFile, header: bytes, dims: int) -> tuple[int, ...]:
    expected = bytes([0, 0, _UNSIGNED_BYTE, dims])
    if header[:4] != expected:
        kind = "images" if dims == 3 else "labels"  # noqa: PLR2004 - IDX images: count, rows, columns
        raise DataError(
            f"{source} is not an IDX file of {kind}: expected it to begin with {expected.hex()}, got "
            f"{header[:4].hex() or 'nothing'}; check that images and labels are not exchanged, or {_REMEDY}"
        )
    if len(header) < 4 + 4 * dims:
        raise DataError(
            f"{source} is cut short: expected a header of {4 + 4 * dims} bytes, got {len(header)}; {_REMEDY}"
        )
    return tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
