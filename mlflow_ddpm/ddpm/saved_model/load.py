"""Loads a trained model: from its two files on disk, among a run's artifacts, or of a logged MLflow model."""

import tempfile
from pathlib import Path

import torch

from mlflow_ddpm.core.errors import ModelError
from mlflow_ddpm.core.formatting import display_path
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.saved_model.model_files import check_architecture, read_description, read_weights
from mlflow_ddpm.ddpm.saved_model.trained_model import TrainedModel
from mlflow_ddpm.storage.artifacts import Artifact, Artifacts
from mlflow_ddpm.storage.layout import DESCRIPTION_NAME, MODEL_FOLDER, WEIGHTS_NAME
from mlflow_ddpm.storage.mlflow_call import default_store, exclusive_migration, translate_mlflow_errors
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.storage.run_search import find_run, open_store, run_id_of

_MODEL_BYTES_MAX = 2**35
_FILES = f"{MODEL_FOLDER}/{WEIGHTS_NAME} and {MODEL_FOLDER}/{DESCRIPTION_NAME}"
_EXPECTED = "expected a run's output directory, a model's folder, a run id, runs:/ID or models:/..."


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
    path, device = Path(source), torch.device(device)
    if path.is_dir():
        return _load(_folder_of(path), device)
    text = str(source)
    with tempfile.TemporaryDirectory() as temporary:
        if text.startswith("models:/"):
            return _load(_fetch_logged_model(text, tracking_uri, Path(temporary)), device)
        if run_id_of(text) is None:
            raise ModelError(f"no such directory: {source}; {_EXPECTED}")
        return _load(_fetch_of_run(find_run(text, tracking_uri), Path(temporary)), device)


def _folder_of(directory: Path) -> Path:
    if (directory / MODEL_FOLDER).is_symlink():
        raise ModelError(
            f"{display_path(directory / MODEL_FOLDER)} is a link, which is not followed; name the folder it leads to"
        )
    for folder in (directory / MODEL_FOLDER, directory):
        if (folder / DESCRIPTION_NAME).exists() and (folder == directory / MODEL_FOLDER or _has_weights(folder)):
            return folder
    raise ModelError(
        f"no model in {display_path(directory)}: expected {_FILES}, which a training writes at its end; to finish an "
        "interrupted training, run the same command again"
    )


def _has_weights(folder: Path) -> bool:
    """Return whether ``config.json`` is a model's: a run's own settings stand under the same name, without weights."""
    return (folder / WEIGHTS_NAME).exists() or (folder / WEIGHTS_NAME).is_symlink()


def _fetch_of_run(store: MlflowRun, into: Path) -> Path:
    with exclusive_migration(store.tracking_uri):
        artifacts = Artifacts(store, max_bytes=_MODEL_BYTES_MAX)
    return artifacts.fetch(find_model(artifacts, f"run {store.run_id}"), into)[0].parent


def find_model(artifacts: Artifacts, name: str) -> list[Artifact]:
    """Return the model's two files among the artifacts of a run or logged model, or raise ModelError."""
    files = [file for file in artifacts.find(MODEL_FOLDER) if file.name in (WEIGHTS_NAME, DESCRIPTION_NAME)]
    if len(files) < 2:  # noqa: PLR2004 - weights and description
        raise ModelError(
            f"{name} has no model among its artifacts: expected {_FILES}, which a training logs at its end"
        )
    return files


def _fetch_logged_model(model_uri: str, tracking_uri: str | None, into: Path) -> Path:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    store = open_store(model_uri, tracking_uri)
    uri = store.tracking_uri
    with translate_mlflow_errors(uri), exclusive_migration(uri), default_store(uri):
        repository = get_artifact_repository(model_uri, tracking_uri=uri)
        while hasattr(repository, "repo"):  # a registered model's leads to the logged model's
            repository = repository.repo
    artifacts = Artifacts(store, max_bytes=_MODEL_BYTES_MAX, repository=repository)
    return artifacts.fetch(find_model(artifacts, model_uri), into)[0].parent


def _load(folder: Path, device: torch.device) -> TrainedModel:
    description = read_description(folder / DESCRIPTION_NAME)
    architecture = check_architecture(description, folder)
    weights = read_weights(folder / WEIGHTS_NAME, description)
    unet = UNet(**architecture)
    unet.load_state_dict(weights)
    unet.eval().requires_grad_(requires_grad=False)
    unet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # as it was trained
    return TrainedModel(unet, description)
