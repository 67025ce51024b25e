"""Reads IDX files, the format of MNIST and EMNIST: a magic number, the sizes, then the bytes.

Every size is checked against what follows it before the data is trusted, and nothing large is allocated on the word
of a header alone.
"""

from __future__ import annotations

import math
from io import BufferedIOBase

import torch
from torch import Tensor

from mlflow_ddpm.core.errors import DataError
from mlflow_ddpm.ddpm.data.emnist_files import OfficialFile

__all__ = ["read_idx"]

_UNSIGNED_BYTE = 0x08
_PORTION = 2**20  # gzip makes each portion twice, so all at once would double the memory
_REMEDY = "fetch the file again"


def read_idx(source: OfficialFile, dims: int) -> Tensor:
    """Return the file's bytes as a uint8 tensor of its ``dims`` sizes, in its own memory.

    Raises:
        DataError: the file is missing, damaged, not IDX of unsigned bytes with ``dims`` sizes, or cut or too long.
    """
    with source.open() as file:
        shape = _read_shape(source.where, file, dims)
        data = _read_bytes(source, file, math.prod(shape))
    return torch.frombuffer(data, dtype=torch.uint8).view(shape) if data else torch.empty(shape, dtype=torch.uint8)


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
    """Read exactly ``size`` bytes into one block of memory, which the tensor then shares."""
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
