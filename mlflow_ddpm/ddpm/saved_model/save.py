"""Writes a trained model for others to use: ``model.safetensors`` and ``config.json``, no pickle in either.

The second file describes how to build the U-Net, what it predicts of which noising process, and which weights belong
to it.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.strict_json import dumps
from mlflow_ddpm.core.version import __version__
from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.storage.layout import DESCRIPTION_NAME, MODEL_FOLDER, WEIGHTS_NAME

FORMAT_VERSION = 1  # of config.json; a change that older readers would misread raises it


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
