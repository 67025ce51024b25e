"""The data set that a configuration names: EMNIST's files, or the embedded default, scikit-learn's 1,797 digits."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as nnf

from mlflow_ddpm.ddpm.config.groups import DataConfig
from mlflow_ddpm.ddpm.data.emnist import load_emnist
from mlflow_ddpm.ddpm.data.emnist_files import has_split
from mlflow_ddpm.ddpm.data.images import Dataset, LabelledImages

_HELD_OUT = 297  # leaves 1,500 to train on
_SPLIT_SEED = 0  # fixed: another seed of the run must not change what is held out
_BRIGHTEST = 16.0


def load_dataset(config: DataConfig) -> Dataset:
    """Return the data set that a resolved configuration names; raise DataError for missing or damaged files."""
    if config.name == "digits":
        return load_digits(config.image_size)
    return load_emnist(config.dir, _split_of(config))


def is_missing(config: DataConfig) -> bool:
    """Return whether the data set is read from files, and some of them are missing."""
    return config.name != "digits" and not has_split(Path(config.dir), _split_of(config))


def load_digits(image_size: int) -> Dataset:
    """Return the digits enlarged to ``image_size``, 1,500 to train on and 297 held out, the same ones always."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = _enlarge(torch.from_numpy(bunch.images).float(), image_size)  # (N, 1, S, S)
    labels = torch.from_numpy(bunch.target).long()  # (N,)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    test, train = order[:_HELD_OUT], order[_HELD_OUT:]
    return Dataset(
        name="digits",
        train=LabelledImages(images[train], labels[train]),
        test=LabelledImages(images[test], labels[test]),
        class_names=tuple(str(name) for name in bunch.target_names),
    )


def _enlarge(images: Tensor, image_size: int) -> Tensor:
    """Return (N, H, W) in 0..16 as uint8 (N, 1, S, S). Bicubic, which overshoots, hence the clamp."""
    x = images[:, None] / _BRIGHTEST
    if x.shape[-1] != image_size:
        x = nnf.interpolate(x, (image_size, image_size), mode="bicubic", align_corners=False)
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


def _split_of(config: DataConfig) -> str:
    return config.name.removeprefix("emnist-")
