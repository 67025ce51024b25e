"""A trained model and the images it draws; it is loaded from its two files, a run's artifacts, or a logged model.

Letters: K classes asked for, n images of each, N = K n, S the side of an image in pixels.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlflow_ddpm.core.errors import ModelError, UsageError
from mlflow_ddpm.core.formatting import display_path, short_repr
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.sampling import draw_samples
from mlflow_ddpm.ddpm.saved_model.model_files import (
    check_architecture,
    read_description,
    read_weights,
    sampling_settings,
)
from mlflow_ddpm.storage.artifacts import Artifact, Artifacts
from mlflow_ddpm.storage.layout import DESCRIPTION_NAME, MODEL_FOLDER, WEIGHTS_NAME
from mlflow_ddpm.storage.mlflow_call import default_store, exclusive_migration, translate_mlflow_errors
from mlflow_ddpm.storage.run_search import find_run, open_store, run_id_of

_MODEL_BYTES_MAX = 2**35
_FILES = f"{MODEL_FOLDER}/{WEIGHTS_NAME} and {MODEL_FOLDER}/{DESCRIPTION_NAME}"
_EXPECTED = "expected a run's output directory, a model's folder, a run id, runs:/ID or models:/..."
_SEEDS = 2**63


class TrainedModel:
    """A class-conditional diffusion model with its averaged weights; made by :func:`mlflow_ddpm.load_model`.

    ``unet`` is in eval mode, without gradients; ``description`` is ``config.json`` as read; ``class_names`` are the
    classes that can be asked for, by label.
    """

    def __init__(self, unet: UNet, description: Mapping[str, Any]) -> None:
        """Take a built U-Net and the description it came with, which was checked when it was read."""
        self.unet, self.description = unet, description
        self.class_names: tuple[str, ...] = tuple(description["class_names"])

    def sample(
        self,
        classes: Sequence[object] | None = None,
        *,
        per_class: int = 1,
        guidance_scale: float | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> NDArray[np.uint8]:
        """Return images (N, S, S), uint8, bright on black, class by class; the same seed draws the same images.

        Args:
            classes: names of classes, each as often as wanted, such as ``[3, 1, 4]`` or ``["A", "b"]``; default all.
            per_class: images of each.
            guidance_scale: 1 draws plainly, more makes images plainer and less varied; default: as the run's grids.
            steps: passes through the U-Net (two each under guidance); default: as the run's grids.
            seed: from 0 to 2**63 - 1. The same seed gives the same bytes on the same machine and version of torch.

        Raises:
            UsageError: there is no such class, or a number is out of range.
        """
        names = self.class_names if classes is None else [str(name) for name in classes]
        labels = torch.tensor(self._labels(names)).repeat_interleave(_checked("per_class", per_class, 1, 2**31))  # (N,)
        changed = {"steps": steps, "guidance_scale": guidance_scale}
        config = sampling_settings(self.description, **{k: v for k, v in changed.items() if v is not None})
        images = draw_samples(
            self.unet,
            config,
            labels,
            guidance_scale=config.sample.guidance_scale,
            generator=torch.Generator().manual_seed(_checked("seed", seed, 0, _SEEDS)),
        )
        drawn: NDArray[np.uint8] = images[:, 0].numpy()
        return drawn

    def _labels(self, names: Sequence[str]) -> list[int]:
        unknown = sorted(set(names) - set(self.class_names))
        if unknown or not names:
            what = f"no class {', '.join(unknown)}" if unknown else "no class was asked for"
            raise UsageError(f"{what}; the model knows {', '.join(self.class_names)}")
        return [self.class_names.index(name) for name in names]


def _checked(name: str, value: int, least: int, below: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < below:
        raise UsageError(f"{name} must be a whole number >= {least} and < {below}, got {short_repr(value)}")
    return value


def load_model(
    source: str | Path, *, tracking_uri: str | None = None, device: torch.device | str = "cpu"
) -> TrainedModel:
    """Return a finished training's model.

    Args:
        source: the run's output directory; a folder with ``model.safetensors`` and ``config.json``; a run id,
            its first letters, ``runs:/ID`` or ``runs:/ID/model``; or a ``models:/`` URI such as ``mlflow-ddpm train``
            prints.
        tracking_uri: the tracking store of a run or a logged model; default: MLflow's own settings.
        device: where the model goes.

    Raises:
        ModelError: there is no model, or it is damaged or of a later format.
        StoreError: the store is away or has no such run.
    """
    path, text, device = Path(source), str(source), torch.device(device)
    if path.is_dir():
        return _load(_folder_of(path), device)
    if text.startswith("models:/"):
        artifacts, name = _artifacts_of_model(text, tracking_uri), text
    elif run_id_of(text) is None:
        raise ModelError(f"no such directory: {source}; {_EXPECTED}")
    else:
        store = find_run(text, tracking_uri)
        name = f"run {store.run_id}"
        with exclusive_migration(store.tracking_uri):
            artifacts = Artifacts(store, max_bytes=_MODEL_BYTES_MAX)
    with tempfile.TemporaryDirectory() as temporary:
        return _load(artifacts.fetch(find_model(artifacts, name), Path(temporary))[0].parent, device)


def _folder_of(directory: Path) -> Path:
    """Return the folder of the model's two files. Without weights, ``config.json`` is a run's own settings."""
    if (directory / MODEL_FOLDER).is_symlink():
        raise ModelError(
            f"{display_path(directory / MODEL_FOLDER)} is a link, which is not followed; name the folder it leads to"
        )
    if (directory / MODEL_FOLDER / DESCRIPTION_NAME).exists():
        return directory / MODEL_FOLDER
    weights = directory / WEIGHTS_NAME
    if (directory / DESCRIPTION_NAME).exists() and (weights.exists() or weights.is_symlink()):
        return directory
    raise ModelError(
        f"no model in {display_path(directory)}: expected {_FILES}, which a training writes at its end; to finish an "
        "interrupted training, run the same command again"
    )


def find_model(artifacts: Artifacts, name: str) -> list[Artifact]:
    """Return the model's two files among the artifacts of a run or logged model, or raise ModelError."""
    files = [file for file in artifacts.find(MODEL_FOLDER) if file.name in (WEIGHTS_NAME, DESCRIPTION_NAME)]
    if len(files) < 2:  # noqa: PLR2004 - weights and description
        raise ModelError(
            f"{name} has no model among its artifacts: expected {_FILES}, which a training logs at its end"
        )
    return files


def _artifacts_of_model(model_uri: str, tracking_uri: str | None) -> Artifacts:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    store = open_store(model_uri, tracking_uri)
    uri = store.tracking_uri
    with translate_mlflow_errors(uri), exclusive_migration(uri), default_store(uri):
        repository = get_artifact_repository(model_uri, tracking_uri=uri)
        while hasattr(repository, "repo"):  # a registered model's leads to the logged model's
            repository = repository.repo
    return Artifacts(store, max_bytes=_MODEL_BYTES_MAX, repository=repository)


def _load(folder: Path, device: torch.device) -> TrainedModel:
    description = read_description(folder / DESCRIPTION_NAME)
    architecture = check_architecture(description, folder)
    weights = read_weights(folder / WEIGHTS_NAME, description)
    unet = UNet(**architecture)
    unet.load_state_dict(weights)
    unet.eval().requires_grad_(requires_grad=False)
    unet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # as it was trained
    return TrainedModel(unet, description)
