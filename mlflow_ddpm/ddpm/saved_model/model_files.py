"""A model's two files, written for others to use, and read: ``model.safetensors`` and ``config.json``, no pickle.

``config.json`` describes how to build the U-Net, what it predicts of which noising process, and which weights belong to
it. Files that are read may be a stranger's: no claim is believed before it was compared with their sizes. Each value is
checked. The U-Net is built on torch's meta device, which takes no memory, and its tensors are compared with the header
of ``model.safetensors`` and with the file's size. Only then are weights read. Links, pipes and devices are not opened.
"""

import hashlib
import inspect
import json
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import ConfigError, ModelError
from mlflow_ddpm.core.formatting import first_line, short_repr
from mlflow_ddpm.core.strict_json import dumps
from mlflow_ddpm.core.version import __version__
from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.config.groups import DataConfig, DiffusionConfig, ModelConfig, SampleConfig
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.training.memory_estimate import free_memory
from mlflow_ddpm.storage.layout import DESCRIPTION_NAME, MODEL_FOLDER, WEIGHTS_NAME

FORMAT_VERSION = 1  # of config.json; a change that older readers would misread raises it
_DESCRIPTION_MAX = 2**20  # bytes; of our largest models 1 kB
_TENSORS_PER_STAGE = 10  # at least: two norms, two convolutions and a linear layer, each with weight and bias
_COPIES = 3  # of the weights while they are loaded: the file's bytes, its tensors, the U-Net
_LEVELS_MAX, _NAME_MAX = 8, 40  # levels of the U-Net; characters of a class's name, which is drawn and printed
_UNET_ARGUMENTS = inspect.signature(UNet).parameters.items()
_DEFAULTS: dict[str, Any] = {
    name: argument.default for name, argument in _UNET_ARGUMENTS if argument.default is not argument.empty
}


def save_model(output_dir: Path, model: UNet, config: Config, class_names: Sequence[str]) -> list[Path]:
    """Write the model's two files into ``output_dir/model`` and return them; the same model gives the same bytes.

    Each file is replaced whole. ``config.json`` comes last and holds the SHA-256 of the weights, so that a crash
    between the two leaves no pair that passes for one.

    Raises:
        OSError: the disk is full, read-only or gone.
    """
    folder = output_dir / MODEL_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    weights = _encode_weights(model)
    description = _describe(model, config, class_names, hashlib.sha256(weights).hexdigest())
    paths = [folder / WEIGHTS_NAME, folder / DESCRIPTION_NAME]
    replace_file(paths[0], weights)
    replace_file(paths[1], (dumps(description, indent=2) + "\n").encode())
    return paths


def _encode_weights(model: UNet) -> bytes:
    """Return the parameters as safetensors, which stores no memory layout: channels first, on no device."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    return save(tensors, metadata={"format": "pt"})


def _describe(model: UNet, config: Config, class_names: Sequence[str], sha256: str) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "mlflow_ddpm_version": __version__,
        "architecture": model.architecture,
        "diffusion": {
            "schedule": "cosine",  # Nichol & Dhariwal 2021, eq. 17
            "timesteps": config.diffusion.timesteps,
            "prediction": config.diffusion.prediction,
        },
        "sample": {  # what the run drew its own grids with, and the defaults of whoever draws more
            "sampler": config.sample.sampler,
            "steps": config.sample.steps,
            "guidance_scale": config.sample.guidance_scale,
        },
        "class_names": list(class_names),
        "trained_on": config.data.name,
        "weights": {"file": WEIGHTS_NAME, "sha256": sha256, "average": "ema"},
    }


def read_description(path: Path) -> dict[str, Any]:
    """Return a ``config.json``; raise ModelError if it is missing, damaged, out of range or of a later format."""
    try:
        description = json.loads(_read(path, most=_DESCRIPTION_MAX))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {first_line(error)}; fetch the model again") from None
    version = description.get("format_version") if isinstance(description, dict) else None
    if not isinstance(version, int):
        raise ModelError(f"{path} is no description of an mlflow_ddpm model: it has no format_version")
    if version > FORMAT_VERSION:
        raise ModelError(
            f"{path} has format {version}, and this version reads formats up to {FORMAT_VERSION}; "
            f"mlflow_ddpm {short_repr(description.get('mlflow_ddpm_version'))} wrote it: install that or a later one"
        )
    try:
        sample = _check_description(description).sample
    except (ArithmeticError, ConfigError, LookupError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise ModelError(f"{path} describes no model that this version can build: {what}") from None
    complete = {name: getattr(sample, name) for name in ("sampler", "steps", "guidance_scale")}
    return {**description, "sample": complete}


def sampling_settings(description: Mapping[str, Any], **changed: Any) -> Config:
    """Return the settings to draw with; ``changed`` replaces some of ``sample``; or raise ConfigError."""
    diffusion = DiffusionConfig(**{key: description["diffusion"][key] for key in ("timesteps", "prediction")})
    sample = SampleConfig(**{**description["sample"], **changed})
    if sample.steps > diffusion.timesteps:
        raise ConfigError(f"steps must be <= {diffusion.timesteps}, got {short_repr(sample.steps)}")
    return Config(diffusion=diffusion, sample=sample)


def _check_description(description: Mapping[str, Any]) -> Config:
    """Return the settings to draw with if the description is sound."""
    architecture, names = _DEFAULTS | description["architecture"], description["class_names"]
    image_size, classes, channels, mults = (
        architecture.pop(name) for name in ("image_size", "classes", "image_channels", "channel_mults")
    )
    if unknown := set(architecture) - {field.name for field in fields(ModelConfig)}:
        raise ValueError(f"architecture has unknown keys {short_repr(sorted(unknown))}")
    if type(channels) is not int or type(classes) is not int:
        raise TypeError("image_channels and classes must be whole numbers")
    if channels != 1 or None in (image_size, *architecture.values()):
        raise ValueError(f"image_channels must be 1, and no value null, got {short_repr(description['architecture'])}")
    if not isinstance(mults, list | tuple) or len(mults) > _LEVELS_MAX:
        raise ValueError(f"channel_mults must be a list of at most {_LEVELS_MAX}, got {short_repr(mults)}")
    try:
        data, model = DataConfig(image_size=image_size), ModelConfig(channel_mults=tuple(mults), **architecture)
        Config(data=data, model=model).check_together()
    except ConfigError as error:  # its names are those of a run's settings
        raise ValueError(re.sub(r"\b(data|model)\.| or 'auto'", "", str(error))) from None
    if not isinstance(names, list) or not all(isinstance(name, str) and name.isprintable() for name in names):
        raise TypeError(f"class_names must be a list of printable strings, got {short_repr(names)}")
    if not names or max(map(len, names)) > _NAME_MAX or len(names) != classes or len(set(names)) != len(names):
        raise ValueError(f"class_names must be {short_repr(classes)} different names, got {short_repr(names)}")
    if not isinstance(description["weights"]["sha256"], str):
        raise TypeError("weights.sha256 must be a string")
    if description["diffusion"].get("schedule", "cosine") != "cosine":
        raise ValueError(f"schedule must be cosine, got {short_repr(description['diffusion']['schedule'])}")
    return sampling_settings(description)


def check_architecture(description: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the U-Net's arguments; raise ModelError if its tensors are not the file's, or do not fit into memory."""
    path = folder / WEIGHTS_NAME
    architecture: dict[str, Any] = _DEFAULTS | description["architecture"]
    found = _read_shapes(path)
    stages = 2 * architecture["blocks"] * len(architecture["channel_mults"])
    if stages * _TENSORS_PER_STAGE > len(found):
        raise ModelError(f"{path} holds {len(found)} tensors, too few for the U-Net of {DESCRIPTION_NAME} beside it")
    try:
        with torch.device("meta"):
            expected = {name: list(tensor.shape) for name, tensor in UNet(**architecture).state_dict().items()}
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{folder / DESCRIPTION_NAME} describes no model that this version can build: {first_line(error)}"
        ) from None
    if differing := {name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)}:
        name = min(differing)
        raise ModelError(
            f"{path} does not fit {DESCRIPTION_NAME} beside it: tensor {name[:80]!r} must have shape "
            f"{expected.get(name)}, got {short_repr(found.get(name))}"
        )
    needed, free = 4 * sum(math.prod(shape) for shape in expected.values()), free_memory(torch.device("cpu"))
    if _COPIES * needed > free:
        raise ModelError(
            f"{path} needs {_COPIES * needed // 2**20:,} MiB of memory to load, {free // 2**20:,} MiB are free"
        )
    return architecture


def read_weights(path: Path, description: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the tensors of the file that the description belongs to, by its SHA-256; checked before by its header."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = _read(path)
    if hashlib.sha256(content).hexdigest() != description["weights"]["sha256"]:
        raise ModelError(
            f"{path} is damaged, or belongs to another {DESCRIPTION_NAME}: its SHA-256 is not the one written there; "
            "fetch both again"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise ModelError(f"{path} holds no weights in the safetensors format: {first_line(error)}") from None


def _read_shapes(path: Path) -> dict[str, list[int] | str]:
    """Return the shape of each tensor that the file holds, or its type where that is not float32.

    safetensors compares the header with the file's size, and reads no tensor.
    """
    from safetensors import SafetensorError, safe_open

    _read(path, count=0)
    try:
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {name: t.get_shape() if t.get_dtype() == "F32" else t.get_dtype() for name, t in tensors.items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} holds no weights in the safetensors format, or is cut short or too long: {first_line(error)}"
        ) from None


def _read(path: Path, *, most: int | None = None, count: int = -1) -> bytes:
    """Return a regular file's bytes, or its first ``count``; longer than ``most`` is refused."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(file, "rb") as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelError(f"{path} is no regular file; a model consists of two")
            if most is not None and status.st_size > most:
                raise ModelError(f"{path} has {status.st_size:,} bytes; expected at most {most:,}")
            return opened.read(count)
    except FileNotFoundError:
        raise ModelError(f"no such file: {path}; a model consists of {WEIGHTS_NAME} and {DESCRIPTION_NAME}") from None
    except OSError as error:
        what = "is a link, which is not followed; copy the file itself there" if path.is_symlink() else error.strerror
        raise ModelError(f"{path} {what}") from None
