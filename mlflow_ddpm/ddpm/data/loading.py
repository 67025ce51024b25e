"""The data set that a configuration names."""

from __future__ import annotations

from pathlib import Path

from mlflow_ddpm.ddpm.config.groups import DataConfig
from mlflow_ddpm.ddpm.data.digits import load_digits
from mlflow_ddpm.ddpm.data.emnist import load_emnist
from mlflow_ddpm.ddpm.data.emnist_files import has_split
from mlflow_ddpm.ddpm.data.images import Dataset

__all__ = ["is_missing", "load_dataset"]


def load_dataset(config: DataConfig) -> Dataset:
    """Return the data set that a resolved configuration names.

    Raises:
        DataError: files are missing or damaged.
    """
    if config.name == "digits":
        return load_digits(config.image_size or 8)
    return load_emnist(config.dir, _split_of(config))


def is_missing(config: DataConfig) -> bool:
    """Return whether the data set is read from files, and some of them are missing."""
    return config.name != "digits" and not has_split(Path(config.dir), _split_of(config))


def _split_of(config: DataConfig) -> str:
    return config.name.removeprefix("emnist-")
