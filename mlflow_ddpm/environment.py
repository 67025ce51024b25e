"""What a run ran on: versions, device, number of processes."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mlflow_ddpm import ranks
from mlflow_ddpm._version import __version__

__all__ = ["describe_environment"]

_PACKAGES = ("torch", "mlflow", "numpy")


def describe_environment(device: Any = None) -> dict[str, str | int]:
    """Return versions, device and world size. Nothing is imported for it, and no CUDA context is made.

    ``device`` is the training's device as torch writes it (``"cuda:0"``); None takes the CUDA device in use, else CPU.
    """
    found: dict[str, str | int] = {"mlflow_ddpm": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        found["cuda"] = torch.version.cuda
    found["device"] = _device_name(torch, device)
    found["world_size"] = ranks.world_size()
    found["platform"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return found


def _device_name(torch: Any, device: Any) -> str:
    if torch is None:
        return "cpu" if device is None else str(device)
    if device is None:
        device = "cuda" if torch.cuda.is_initialized() else "cpu"
    place = torch.device(device)
    if place.type == "cuda" and torch.cuda.is_initialized():
        return f"{place} ({torch.cuda.get_device_name(place)})"
    return str(place)
