"""Makes a ``gzip.zip`` with a split of EMNIST's true shape and size in seconds, from a few images again and again."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BYCLASS", "idx", "write_archive", "write_split"]

BYCLASS = {"train": 697_932, "test": 116_323}  # images: Cohen et al. 2017, table II
CLASSES = 62


def idx(array: NDArray[np.uint8], *, magic: int = 0x08) -> bytes:
    """Write an IDX file the way its format is described, independent of the reader."""
    header = bytes([0, 0, magic, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def write_archive(path: Path, split: str, counts: dict[str, int], images: NDArray[np.uint8]) -> int:
    """Write the archive as NIST lays it out, with images (n, 28, 28) repeated; return the bytes of all of them."""
    files = write_split(split, counts, images)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(f"gzip/{name}", content)
    return sum(count * (28 * 28 + 1) for count in counts.values())


def write_split(split: str, counts: dict[str, int], images: NDArray[np.uint8]) -> dict[str, bytes]:
    """Return the five files of a split by name."""
    mapping = "".join(f"{label} {48 + label}\n" for label in range(CLASSES))
    files = {f"emnist-{split}-mapping.txt": mapping.encode()}
    for part, count in counts.items():
        labels = (np.arange(count) % CLASSES).astype(np.uint8)
        files[f"emnist-{split}-{part}-images-idx3-ubyte.gz"] = _repeated(images, count)
        files[f"emnist-{split}-{part}-labels-idx1-ubyte.gz"] = gzip.compress(idx(labels), 1)
    return files


def _repeated(images: NDArray[np.uint8], count: int) -> bytes:
    """Return the images as gzip'd IDX, each block compressed once: a gzip file may be several, one after another."""
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
    whole, rest = divmod(count, len(images))
    blocks = [gzip.compress(header, 1), *[gzip.compress(images.tobytes(), 1)] * whole]
    return b"".join([*blocks, gzip.compress(images[:rest].tobytes(), 1)])
