"""The data set that a configuration names: the embedded default, scikit-learn's 1,797 digits, or EMNIST's files.

EMNIST (Cohen et al. 2017) has six splits of handwritten characters, 28x28. Two things differ from MNIST: every image is
stored transposed, and the classes are named in a mapping file, by character code; the labels of ``letters`` count from
1.
"""

from pathlib import Path

import torch
from torch.nn import functional as nnf

from mlflow_ddpm.core.errors import DataError
from mlflow_ddpm.ddpm.config.groups import DataConfig
from mlflow_ddpm.ddpm.data.emnist_files import (
    IMAGES,
    LABELS,
    MAPPING,
    OfficialFile,
    find_split,
    open_unzipped,
    read_idx,
)
from mlflow_ddpm.ddpm.data.images import Dataset, LabelledImages

_HELD_OUT = 297  # digits; leaves 1,500 to train on
_SPLIT_SEED = 0  # fixed: another seed of the run must not change what is held out
_BRIGHTEST = 16.0  # of a digit
_LABELS = 256  # EMNIST's labels are bytes
_UNKNOWN = -1


def load_dataset(config: DataConfig) -> Dataset:
    """Return the data set that a resolved configuration names; raise DataError for missing or damaged files."""
    return load_digits(config.image_size) if config.name == "digits" else load_emnist(config.dir, _split_of(config))


def is_missing(config: DataConfig) -> bool:
    """Return whether the data set is read from files and some are missing; what they hold is not read."""
    if config.name == "digits":
        return False
    try:
        find_split(Path(config.dir), _split_of(config))
    except DataError:
        return True
    return False


def _split_of(config: DataConfig) -> str:
    return config.name.removeprefix("emnist-")


def load_digits(image_size: int) -> Dataset:
    """Return the digits enlarged to ``image_size``, 1,500 to train on and 297 held out, the same ones always."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    x = torch.from_numpy(bunch.images).float()[:, None] / _BRIGHTEST  # (N, 1, 8, 8) in [0, 1]
    if x.shape[-1] != image_size:
        x = nnf.interpolate(x, (image_size, image_size), mode="bicubic", align_corners=False)
    images = (x * 255).round().clamp(0, 255).to(torch.uint8)  # (N, 1, S, S); bicubic overshoots, hence the clamp
    labels = torch.from_numpy(bunch.target).long()  # (N,)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    test, train = (LabelledImages(images[part], labels[part]) for part in (order[:_HELD_OUT], order[_HELD_OUT:]))
    return Dataset("digits", train, test, class_names=tuple(str(name) for name in bunch.target_names))


def load_emnist(place: str | Path, split: str) -> Dataset:
    """Return the split ``byclass``, ``bymerge``, ``balanced``, ``letters``, ``digits`` or ``mnist``.

    ``place`` is EMNIST's ``gzip.zip``, or a folder with the official files, ``gzip/`` or ``gzip.zip``. The images take
    their size on disk, in bytes, and at most an eighth more.

    Raises:
        DataError: a file is missing, damaged, or does not belong to the others.
    """
    files = find_split(Path(place), split)
    mapping = files[MAPPING]
    names = _read_mapping(mapping)
    train, test = (
        _read_part(files[IMAGES.format(part)], files[LABELS.format(part)], mapping, list(names))
        for part in ("train", "test")
    )
    return Dataset(f"emnist-{split}", train, test, class_names=tuple(names.values()))


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
    """Return images and their labels, each label as its position in the mapping."""
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
    position = torch.full((_LABELS,), _UNKNOWN)
    position[stored_labels] = torch.arange(len(stored_labels))
    counted = position[labels.long()]  # (N,) int64
    if unknown := labels[counted == _UNKNOWN].unique().tolist():
        raise DataError(
            f"{labels_file} has labels that {mapping.name} does not name: expected "
            f"{min(stored_labels)} to {max(stored_labels)}, got {', '.join(map(str, unknown[:5]))}; "
            "fetch both files of the same split again"
        )
    # A view: indexing a batch turns it upright, and the set is never copied.
    return LabelledImages(images.transpose(1, 2)[:, None], counted)
