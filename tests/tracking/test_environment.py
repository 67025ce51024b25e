"""What a run ran on: known before anything of it is imported, and plain enough for a tag."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from mlflow_ddpm.tracking.environment import describe_environment

if TYPE_CHECKING:
    import pytest


def test_versions_device_and_processes_are_named() -> None:
    """Of packages that are installed; the device is that of the training."""
    environment = describe_environment("cpu")

    assert environment["torch"] == version("torch")  # PyPI's CUDA build says +cu130 in torch.__version__ alone
    assert environment.get("cuda") == torch.version.cuda
    assert environment["device"] == "cpu"
    assert environment["world_size"] == 1
    assert {"mlflow_ddpm", "mlflow", "numpy", "python", "platform"} <= environment.keys()
    assert all(isinstance(value, str | int) for value in environment.values())


def test_torch_is_not_imported_for_it() -> None:
    """A loop without torch stays without."""
    code = "from mlflow_ddpm.tracking.environment import describe_environment as d; import sys; print(d()); "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert "'device': 'cpu'" in done.stdout


def test_a_launchers_number_of_processes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a group is initialised."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")

    assert describe_environment()["world_size"] == 4
