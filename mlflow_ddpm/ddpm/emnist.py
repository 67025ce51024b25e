"""EMNIST from its official files in a folder: six splits of handwritten characters, 28x28.

Cohen et al. 2017. Two things differ from MNIST: every image is stored transposed, and the classes are named in a
mapping file, by character code; the labels of ``letters`` count from 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mlflow_ddpm.ddpm.data import Dataset, LabelledImages
from mlflow_ddpm.ddpm.idx import read_idx
from mlflow_ddpm.errors import DataError

__all__ = ["load_emnist"]

_LABELS = 256  # labels are bytes
_UNKNOWN = -1


class _Files(NamedTuple):
    """The official names of a split's five files."""

    train_images: Path
    train_labels: Path
    test_images: Path
    test_labels: Path
    mapping: Path

    @classmethod
    def of(cls, directory: Path, split: str) -> _Files:
        stem = f"emnist-{split}"
        names = [
            f"{stem}-{part}-{kind}-ubyte.gz" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")
        ]
        return cls(*(directory / name for name in (*names, f"{stem}-mapping.txt")))


def load_emnist(directory: str | Path, split: str) -> Dataset:
    """Return the split ``byclass``, ``bymerge``, ``balanced``, ``letters``, ``digits`` or ``mnist`` of a folder.

    Raises:
        DataError: a file is missing, damaged, or does not belong to the others.
    """
    files = _find_files(Path(directory), split)
    names = _read_mapping(files.mapping)
    return Dataset(
        name=f"emnist-{split}",
        train=_read_part(files.train_images, files.train_labels, files.mapping, list(names)),
        test=_read_part(files.test_images, files.test_labels, files.mapping, list(names)),
        class_names=tuple(names.values()),
    )


def _find_files(directory: Path, split: str) -> _Files:
    """Look in the folder, then in its ``gzip/``, as the official archive unpacks."""
    candidates = [_Files.of(directory, split), _Files.of(directory / "gzip", split)]
    found = max(candidates, key=lambda files: sum(path.is_file() for path in files))
    missing = [path.name for path in found if not path.is_file()]
    if missing:
        raise DataError(
            f"expected the official files of EMNIST {split} in {found.mapping.parent}, missing {', '.join(missing)}; "
            "unpack EMNIST's gzip.zip and name its folder with --data-dir"
        )
    return found


def _read_mapping(path: Path) -> dict[int, str]:
    """Return the class names by stored label, in order of label. A line holds the label, then its character codes."""
    names: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="ascii", errors="replace").splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) < 2 or not all(cell.isascii() and cell.isdigit() for cell in cells):  # noqa: PLR2004
            raise DataError(f"{path} line {number}: expected a label and character codes, got {line!r}; fetch it again")
        label, code = int(cells[0]), int(cells[1])  # letters name both cases; the first, the capital, stands for both
        if label >= _LABELS or code >= _LABELS or label in names:
            raise DataError(
                f"{path} line {number}: expected a new label and a code below 256, got {line!r}; fetch it again"
            )
        names[label] = chr(code)
    if not names:
        raise DataError(f"{path} names no classes: expected lines such as '0 48', got an empty file; fetch it again")
    return dict(sorted(names.items()))


def _read_part(images_path: Path, labels_path: Path, mapping_path: Path, stored_labels: list[int]) -> LabelledImages:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)  # (N, W, H), (N,)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path} does not belong to {images_path.name}: expected {len(images)} labels, one an image, got "
            f"{len(labels)}; fetch both again"
        )
    if images.numel() == 0:
        raise DataError(
            f"{images_path} holds no images: expected at least one, got shape {tuple(images.shape)}; fetch it again"
        )
    # A view: indexing a batch turns it upright, and the set is never copied.
    return LabelledImages(
        images.transpose(1, 2)[:, None], _count_from_zero(labels, stored_labels, labels_path, mapping_path)
    )


def _count_from_zero(labels: Tensor, stored_labels: list[int], labels_path: Path, mapping_path: Path) -> Tensor:
    """Return the position in the mapping of each stored label, (N,) int64."""
    position = torch.full((_LABELS,), _UNKNOWN)
    position[stored_labels] = torch.arange(len(stored_labels))
    counted = position[labels.long()]
    unknown = labels[counted == _UNKNOWN].unique().tolist()
    if unknown:
        raise DataError(
            f"{labels_path} has labels that {mapping_path.name} does not name: expected {min(stored_labels)} to "
            f"{max(stored_labels)}, got {', '.join(map(str, unknown[:5]))}; fetch both files of the same split again"
        )
    return counted
