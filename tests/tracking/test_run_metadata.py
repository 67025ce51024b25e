"""A run's config, tags and environment are cleaned once, where the caller hands them over."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from importlib.metadata import version
from typing import Any

import pytest
import torch

from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.tracking.run_metadata import RunMetadata, describe_environment

KEY = "hf_AbCdEfGhIjKlMnOpQrStUvWxYzAbCdEfGh"


def metadata(**changes: Any) -> RunMetadata:
    """Return what is recorded of a config with a credential, and of a tag and a variable with the same one."""
    config = {"optim": {"lr": 0.1, "betas": (0.9, math.inf)}, "db_password": "correct-horse-42", **changes}
    return RunMetadata.create(config, {"note": "with correct-horse-42"}, {"device": "cpu", "hub": KEY})


def test_everything_is_plain_and_without_credentials() -> None:
    """One found in the config is searched for in tags, environment and messages."""
    cleaned = metadata()

    assert cleaned.config["optim"]["betas"] == (0.9, "Infinity")
    assert cleaned.params == {"optim.lr": "0.1", "optim.betas": "[0.9, 'Infinity']", "db_password": "***"}
    assert cleaned.tags == {"note": "with ***"}
    assert cleaned.environment == {"device": "cpu", "hub": "***"}
    assert redact("login with correct-horse-42 failed", cleaned.hidden) == "login with *** failed"


@pytest.mark.parametrize("part", ["config", "params", "tags", "environment"])
def test_nobody_can_change_it(part: str) -> None:
    """What is uploaded after an hour is what was given."""
    with pytest.raises(TypeError):
        getattr(metadata(), part)["new"] = 1


def test_the_callers_own_config_is_neither_changed_nor_kept() -> None:
    """A training may change its settings while it runs."""
    config: dict[str, Any] = {"optim": {"lr": 0.1}, "token": KEY}
    cleaned = RunMetadata.create(config, {}, {})
    config["optim"]["lr"] = 0.2

    assert cleaned.config["optim"]["lr"] == 0.1
    assert config["token"] == KEY


def test_hidden_names_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """By name alone."""
    metadata()

    (message,) = caplog.messages
    assert "db_password, tag note, hub" in message
    assert KEY not in message


def test_a_changed_config_is_named_when_a_run_is_resumed(caplog: pytest.LogCaptureFixture) -> None:
    """The first five settings that differ."""
    caplog.set_level(logging.WARNING)
    current = RunMetadata.create({"lr": 0.2, "seed": 1}, {}, {})
    current.compare_config({"lr": 0.1, "seed": 1, "gone": 3})

    (message,) = caplog.messages
    assert "lr was 0.1, is 0.2" in message
    assert "seed" not in message


def test_versions_device_and_processes_are_named() -> None:
    """Of packages that are installed; the device is that of the training."""
    environment = describe_environment("cpu")

    assert environment["torch"] == version("torch")  # PyPI's CUDA build says +cu130 in torch.__version__ alone
    assert environment.get("cuda") == torch.version.cuda
    assert environment["device"] == "cpu"
    assert environment["world_size"] == 1
    assert {"mlflow_ddpm", "mlflow", "numpy", "python", "platform"} <= environment.keys()
    assert all(isinstance(value, str | int) for value in environment.values())


def test_torch_is_not_imported_for_the_environment() -> None:
    """A loop without torch stays without."""
    code = "from mlflow_ddpm.tracking.run_metadata import describe_environment as d; import sys; print(d()); "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert "'device': 'cpu'" in done.stdout


def test_a_launchers_number_of_processes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a group is initialised."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")

    assert describe_environment()["world_size"] == 4
