"""Takes a trained model back from its two files, on disk or among a run's artifacts."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from mlflow_ddpm.analysis.history import open_store, run_id_of
from mlflow_ddpm.core.atomic_file import shown
from mlflow_ddpm.core.errors import ConfigError, ModelError
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.saved_model.save import FORMAT_VERSION
from mlflow_ddpm.ddpm.saved_model.trained_model import TrainedModel
from mlflow_ddpm.storage.layout import DESCRIPTION_NAME, MODEL_FOLDER, WEIGHTS_NAME
from mlflow_ddpm.storage.mlflow_call import exclusive_migration

__all__ = ["load_model"]

_FILES = f"{MODEL_FOLDER}/{WEIGHTS_NAME} and {MODEL_FOLDER}/{DESCRIPTION_NAME}"
# What a description raises that was edited into one of no model.
_NO_MODEL = (ArithmeticError, ConfigError, LookupError, RuntimeError, TypeError, ValueError)


def load_model(
    source: str | Path, *, tracking_uri: str | None = None, device: torch.device | str = "cpu"
) -> TrainedModel:
    """Return a finished training's model.

    Args:
        source: the run's output directory, a folder with ``model.safetensors`` and ``config.json``, or a run id, whose
            two files are then fetched from its artifacts.
        tracking_uri: the tracking store of a run id; default: MLflow's own settings.
        device: where the model goes.

    Raises:
        ModelError: there is no model, or it is damaged or of a later format.
        StoreError: the store is away or has no such run.
    """
    path = Path(source)
    if path.is_dir():
        return _load(_folder_of(path), torch.device(device))
    run_id = run_id_of(source)
    if run_id is None:
        raise ModelError(
            f"no such directory: {source}; expected a run's output directory, a model's folder or a run id"
        )
    with tempfile.TemporaryDirectory() as temporary:
        return _load(_fetch(run_id, tracking_uri, Path(temporary)), torch.device(device))


def _folder_of(directory: Path) -> Path:
    for folder in (directory / MODEL_FOLDER, directory):
        if (folder / DESCRIPTION_NAME).is_file():
            return folder
    raise ModelError(
        f"no model in {shown(directory)}: expected {_FILES}, which a training writes at its end; "
        "one that was cut off goes on with the command that began it"
    )


def _fetch(run_id: str, tracking_uri: str | None, into: Path) -> Path:
    store = open_store(run_id, tracking_uri)
    with exclusive_migration(store.tracking_uri):
        store.info()  # a run that does not exist has no artifacts either, and should be told apart
    fetched = [store.fetch_file(f"{MODEL_FOLDER}/{name}", into) for name in (WEIGHTS_NAME, DESCRIPTION_NAME)]
    if None in fetched:
        raise ModelError(
            f"run {run_id} has no model among its artifacts: expected {_FILES}, which a training logs at its end"
        )
    folders = {path.parent for path in fetched if path}
    return folders.pop()


def _load(folder: Path, device: torch.device) -> TrainedModel:
    path = folder / DESCRIPTION_NAME
    description = _read_description(path)
    try:
        unet = UNet(**description["architecture"])
        unet.load_state_dict(_read_weights(folder / WEIGHTS_NAME, description["weights"]["sha256"]))
        model = TrainedModel(unet, description)
    except _NO_MODEL as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path} describes no model that this version can build: {what}") from error
    unet.eval().requires_grad_(requires_grad=False)
    unet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # as it was trained
    return model


def _read_description(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}; fetch the model again") from error
    version = told.get("format_version") if isinstance(told, dict) else None
    if not isinstance(version, int):
        raise ModelError(f"{path} is no description of an mlflow_ddpm model: it has no format_version")
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{path} has format {version}, and this version reads formats up to {FORMAT_VERSION}; "
            f"it was written by mlflow_ddpm {told.get('mlflow_ddpm_version')}: install that or a later one"
        )
    return dict(told)


def _read_weights(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a file that is the one the description speaks of, to the last bit."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"no such file: {path}; the description beside it needs it") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelError(
            f"{path} is damaged, or belongs to another {DESCRIPTION_NAME}: its SHA-256 is not the one written there; "
            "fetch both again"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise ModelError(f"{path} holds no weights in the safetensors format: {error}") from error
