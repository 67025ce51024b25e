"""Logs a finished run's U-Net as an MLflow model, of the ``mlflow.pytorch`` flavour and without pickle.

MLflow has two forms for torch modules: pickle, which runs code when it is read, and ``pt2``, the graph that
``torch.export`` traces. The second takes a few seconds on a CPU and is the only one used here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlflow_ddpm.analysis.history import open_store
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.saved_model.load import load_model
from mlflow_ddpm.storage.mlflow_call import translate_mlflow_errors

__all__ = ["log_mlflow_model"]

_NAME = "unet"
_KEEPS_A_POINT_ONCE = ("http", "sqlite", "postgresql", "mysql", "mssql")
_TRACED = 2  # images in the traced batch: torch.export would take one for the only size there is


def log_mlflow_model(run_id: str, output_dir: Path, *, epoch: int, tracking_uri: str | None = None) -> str | None:
    """Log the model of an output directory under the run, at the step ``epoch``, and return its ``models:/`` URI.

    ``mlflow.pytorch.load_model(uri)`` gives a module that takes x_t (B, C, S, S) float32, timestep (B,) and labels (B,)
    int64, and returns the prediction (B, C, S, S). None if this version of MLflow knows pickle alone, or the store is a
    folder of files: MLflow links the epoch's metrics to the model by sending them again, and such a store keeps both.

    Raises:
        ModelError: the directory has no model.
        StoreError: the store is away or refuses.
    """
    import mlflow.pytorch
    from mlflow.models import Model

    if "serialization_format" not in inspect.signature(mlflow.pytorch.save_model).parameters:
        return None
    store = open_store(run_id, tracking_uri)
    if not store.tracking_uri.startswith(_KEEPS_A_POINT_ONCE):
        return None
    unet = load_model(output_dir).unet.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with translate_mlflow_errors(store.tracking_uri), _default_store(store.tracking_uri):
        logged = Model.log(
            None,
            mlflow.pytorch,
            name=_NAME,
            run_id=run_id,
            step=epoch,
            pytorch_model=unet,
            serialization_format="pt2",
            input_example=[value.numpy() for value in _inputs(unet)],
            signature=_signature(unet),
            # Told, since MLflow would otherwise load the model in another process to find out.
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        )
    return str(logged.model_uri)


def _inputs(unet: UNet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    labels = torch.zeros(_TRACED, dtype=torch.int64)
    return torch.zeros(_TRACED, *unet.image_shape), torch.zeros(_TRACED, dtype=torch.int64), labels


def _signature(unet: UNet) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    images = (-1, *unet.image_shape)
    given = [
        TensorSpec(np.dtype("float32"), images, "x_t"),
        TensorSpec(np.dtype("int64"), (-1,), "timestep"),
        TensorSpec(np.dtype("int64"), (-1,), "labels"),
    ]
    return ModelSignature(Schema(given), Schema([TensorSpec(np.dtype("float32"), images, "prediction")]))


@contextmanager
def _default_store(tracking_uri: str) -> Iterator[None]:
    """Make a store MLflow's default for a while: logging a model takes no other word for it."""
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.tracking.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
