"""EMNIST from its official files: six splits of handwritten characters, 28x28.

Cohen et al. 2017. Two things differ from MNIST: every image is stored transposed, and the classes are named in a
mapping file, by character code; the labels of ``letters`` count from 1.
"""

from pathlib import Path

import torch
from torch import Tensor

from mlflow_ddpm.core.errors import DataError
from mlflow_ddpm.ddpm.data.emnist_files import OfficialFile, find_split, open_unzipped, read_idx
from mlflow_ddpm.ddpm.data.images import Dataset, LabelledImages

_LABELS = 256  # labels are bytes
_UNKNOWN = -1


def load_emnist(place: str | Path, split: str) -> Dataset:
    """Return the split ``byclass``, ``bymerge``, ``balanced``, ``letters``, ``digits`` or ``mnist``.

    ``place`` is EMNIST's ``gzip.zip``, or a folder with the official files, ``gzip/`` or ``gzip.zip``. The images take
    their size on disk, in bytes, and at most an eighth more.

    Raises:
        DataError: a file is missing, damaged, or does not belong to the others.
    """
    files = find_split(Path(place), split)
    names = _read_mapping(files.mapping)
    return Dataset(
        name=f"emnist-{split}",
        train=_read_part(files.train_images, files.train_labels, files.mapping, list(names)),
        test=_read_part(files.test_images, files.test_labels, files.mapping, list(names)),
        class_names=tuple(names.values()),
    )


def _read_mapping(source: OfficialFile) -> dict[int, str]:
    """Return the class names by stored label, in order of label. A line holds the label, then its character codes."""
    with open_unzipped(source) as file:
        text = file.read().decode("ascii", "replace")
    names: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        place = f"{source} line {number}"
        if len(cells) < 2 or not all(cell.isascii() and cell.isdigit() for cell in cells):  # noqa: PLR2004
            raise DataError(f"{place}: expected a label and character codes, got {line!r}; fetch it again")
        label, code = int(cells[0]), int(cells[1])  # letters name both cases; the first, the capital, stands for both
        if label >= _LABELS or code >= _LABELS or label in names:
            raise DataError(f"{place}: expected a new label and a code below 256, got {line!r}; fetch it again")
        names[label] = chr(code)
    if not names:
        raise DataError(f"{source} names no classes: expected lines such as '0 48', got none; fetch it again")
    return dict(sorted(names.items()))


def _read_part(
    images_file: OfficialFile, labels_file: OfficialFile, mapping: OfficialFile, stored_labels: list[int]
) -> LabelledImages:
    images = torch.from_numpy(read_idx(images_file, 3))  # (N, W, H)
    labels = torch.from_numpy(read_idx(labels_file, 1))  # (N,)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_file} does not belong to {images_file.name}: expected {len(images)} labels, "
            f"one an image, got {len(labels)}; fetch both again"
        )
    if images.numel() == 0:
        raise DataError(
            f"{images_file} holds no images: expected at least one, got shape {tuple(images.shape)}; fetch it again"
        )
    # A view: indexing a batch turns it upright, and the set is never copied.
    upright = images.transpose(1, 2)[:, None]
    return LabelledImages(upright, _count_from_zero(labels, stored_labels, labels_file, mapping))


def _count_from_zero(
    labels: Tensor, stored_labels: list[int], labels_file: OfficialFile, mapping: OfficialFile
) -> Tensor:
    """Return the position in the mapping of each stored label, (N,) int64."""
    position = torch.full((_LABELS,), _UNKNOWN)
    position[stored_labels] = torch.arange(len(stored_labels))
    counted = position[labels.long()]
    unknown = labels[counted == _UNKNOWN].unique().tolist()
    if unknown:
        raise DataError(
            f"{labels_file} has labels that {mapping.name} does not name: expected "
            f"{min(stored_labels)} to {max(stored_labels)}, got {', '.join(map(str, unknown[:5]))}; "
            "fetch both files of the same split again"
        )
    return counted
