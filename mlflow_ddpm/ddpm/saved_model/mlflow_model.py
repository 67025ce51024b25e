"""Logs a finished run's model as an MLflow model with two flavours, neither of which is a pickle.

* ``mlflow.pytorch``: the U-Net as ``torch.export`` traces it (``pt2``), which takes a few seconds on a CPU.
* ``python_function``: the two files of :func:`mlflow_ddpm.load_model`, and a loader: classes in, images out. With them
  goes the package, as one zip file, so that ``mlflow models serve`` needs no installation of it. An installed one
  comes first: the copy in a model never hides it.
"""

from __future__ import annotations

import inspect
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import mlflow_ddpm
from mlflow_ddpm.ddpm.saved_model.load import TrainedModel, load_model
from mlflow_ddpm.storage.layout import MODEL_FOLDER, model_files
from mlflow_ddpm.storage.mlflow_call import default_store, translate_mlflow_errors
from mlflow_ddpm.storage.run_search import open_store

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_NAME = "unet"
_KEEPS_A_POINT_ONCE = ("http", "sqlite", "postgresql", "mysql", "mssql")
_LOADER = "mlflow_ddpm_model"
_LOADER_CODE = '''"""Loads the model for mlflow.pyfunc by the installed package, else by the copy beside this file."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).with_name("mlflow_ddpm.zip")))

from mlflow_ddpm.ddpm.saved_model.mlflow_model import load_pyfunc as _load_pyfunc
'''
_TRACED = 2  # images in the traced batch: torch.export would take one for the only size there is
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "safetensors", "filelock", "pillow")  # what loading and sampling import


def log_mlflow_model(
    run_id: str, output_dir: Path, *, epoch: int, tracking_uri: str | None = None, register_as: str | None = None
) -> str | None:
    """Log the model of an output directory under the run, at the step ``epoch``, and return its ``models:/`` URI.

    ``mlflow.pytorch.load_model(uri)`` gives a module that takes x_t (B, C, S, S) float32, timestep (B,) and labels (B,)
    int64, and returns the prediction (B, C, S, S). ``mlflow.pyfunc.load_model(uri).predict(["3", "1"])`` draws images
    (N, S, S) uint8. With ``register_as`` the model becomes a version of that registered model.

    None if this version of MLflow writes pickles alone, or the store is a folder of files: MLflow links the epoch's
    metrics to the model by sending them again, and such a store keeps both.

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
    trained = load_model(output_dir)
    with translate_mlflow_errors(store.tracking_uri), default_store(store.tracking_uri):
        logged = Model.log(
            None,
            inspect.getmodule(save_model),
            name=_NAME,
            run_id=run_id,
            step=epoch,
            registered_model_name=register_as,
            await_registration_for=0,
            trained=trained,
            files=model_files(output_dir),
        )
    return str(logged.model_uri)


def save_model(path: str, mlflow_model: Any, trained: TrainedModel, files: list[Path]) -> None:
    """Write both flavours into the folder ``path``, which MLflow then logs."""
    import mlflow.pyfunc
    import mlflow.pytorch
    from mlflow.models import infer_signature

    unet = trained.unet.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    numbers = np.zeros(_TRACED, np.int64)
    inputs = {"x_t": np.zeros((_TRACED, *unet.image_shape), np.float32), "timestep": numbers, "labels": numbers}
    installed = {"torch": torch.__version__, **{name: version(name) for name in _REQUIREMENTS}}
    with tempfile.TemporaryDirectory() as temporary:
        mlflow.pytorch.save_model(
            unet,
            path,
            mlflow_model=mlflow_model,
            serialization_format="pt2",
            input_example=list(inputs.values()),
            signature=infer_signature(inputs, inputs["x_t"]),  # the prediction is shaped as x_t
            code_paths=[str(file) for file in _write_code(Path(temporary))],
            # Given, since MLflow would otherwise load the model in another process to infer them.
            pip_requirements=[f"{name}=={number.partition('+')[0]}" for name, number in installed.items()],
        )
    Path(path, MODEL_FOLDER).mkdir()
    for file in files:
        shutil.copy2(file, Path(path, MODEL_FOLDER))
    environment = {"conda_env": "conda.yaml", "python_env": "python_env.yaml"}
    mlflow.pyfunc.add_to_model(mlflow_model, loader_module=_LOADER, data=MODEL_FOLDER, code="code", **environment)
    mlflow_model.signature = _signature(trained)
    mlflow_model.save(str(Path(path, "MLmodel")))


def _write_code(folder: Path) -> list[Path]:
    """Write the loader and the package, as one file instead of one request for each module."""
    package = Path(mlflow_ddpm.__file__).parent
    with zipfile.ZipFile(folder / f"{package.name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for source in sorted(package.rglob("*.py")):
            archive.write(source, source.relative_to(package.parent))
    (folder / f"{_LOADER}.py").write_text(_LOADER_CODE, encoding="utf-8")
    return [folder / f"{_LOADER}.py", folder / f"{package.name}.zip"]


def load_pyfunc(path: str) -> _Sampler:
    """Return what MLflow calls ``predict`` of; ``path`` is the folder with the model's two files."""
    return _Sampler(load_model(path))


class _Sampler:
    """Draws images of classes; what ``python_function`` wraps."""

    def __init__(self, model: TrainedModel) -> None:
        self.model = model

    def predict(self, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> NDArray[np.uint8]:
        """Return an image (S, S) uint8 for each row's ``class``: (N, S, S)."""
        chosen = dict(params or {})
        classes = [str(name) for name in model_input["class"]]
        scale, steps = chosen.get("guidance_scale"), chosen.get("steps")
        return self.model.sample(classes, seed=chosen.get("seed", 0), guidance_scale=scale or None, steps=steps or None)


def _signature(trained: TrainedModel) -> Any:
    """Return what ``predict`` takes and returns: classes and params to images, any number of each."""
    import pandas as pd
    from mlflow.models import infer_signature

    sample, (_, *size) = trained.description["sample"], trained.unet.image_shape
    params = {"seed": 0, "steps": sample["steps"], "guidance_scale": float(sample["guidance_scale"])}
    return infer_signature(pd.DataFrame({"class": ["3"]}), np.zeros((_TRACED, *size), np.uint8), params)
