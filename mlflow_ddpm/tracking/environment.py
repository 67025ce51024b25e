"""What a run ran on: versions, device, number of processes."""

import contextlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.version import __version__

_PACKAGES = ("torch", "mlflow", "numpy")


def describe_environment(device: Any = None) -> dict[str, str | int]:
    """Return versions, device and world size. Nothing is imported for it, and no CUDA context is made.

    ``device`` is the training's device as torch writes it (``"cuda:0"``); None takes the CUDA device in use, else CPU.
    """
    facts: dict[str, str | int] = {"mlflow_ddpm": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError, OSError):  # not installed, or no file descriptor is left
            facts[package] = version(package)
    torch = sys.modules.get("torch")
    if torch is not None and torch.version.cuda:
        facts["cuda"] = torch.version.cuda
    facts |= _describe_device(torch, device)
    facts["world_size"] = ranks.world_size()
    facts["platform"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return facts


def _describe_device(torch: Any, device: Any) -> dict[str, str | int]:
    """Return the device's name, and a card's memory in MiB, by which its use is judged."""
    if torch is None:
        return {"device": "cpu" if device is None else str(device)}
    if device is None:
        device = "cuda" if torch.cuda.is_initialized() else "cpu"
    place = torch.device(device)
    if place.type != "cuda" or not torch.cuda.is_initialized():
        return {"device": str(place)}
    card = torch.cuda.get_device_properties(place)
    return {"device": f"{place} ({card.name})", "gpu_memory_mb": card.total_memory // 2**20}
