"""A run's config, tags and environment: made plain, redacted and frozen once, where they come in."""

import contextlib
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.redaction import redacted
from mlflow_ddpm.core.secret_formats import HIDDEN
from mlflow_ddpm.core.strict_json import as_config, dumps, flatten, freeze
from mlflow_ddpm.core.version import __version__
from mlflow_ddpm.storage.layout import CONFIG_NAME

_log = logging.getLogger("mlflow_ddpm")
_CONFIG_MAX = 2**20  # bytes
_version = cache(version)  # it parses a file of a thousand lines, and each tracker asks
_NAMED_MAX = 5  # changed settings that are named in one message


class RunConfig(NamedTuple):
    """A config of which only some values become params, and the data set that the run reads: for ``config=``."""

    config: Mapping[str, Any]
    params: Mapping[str, str]
    dataset: Mapping[str, str]  # name, digest and source; further keys are its profile


class RunMetadata(NamedTuple):
    """What is recorded of a run beside its epochs. It cannot change, and nothing downstream cleans it again."""

    config: Mapping[str, Any]  # plain data, nested
    params: Mapping[str, str]  # the config's leaves under dotted keys, as MLflow takes them
    tags: Mapping[str, str]
    environment: Mapping[str, Any]
    hidden: tuple[str, ...]  # what was taken out, to be searched for in error messages; never written
    dataset: Mapping[str, Any] = MappingProxyType({})  # as in RunConfig; empty: unknown

    @classmethod
    def create(cls, config: object, tags: Mapping[str, str], environment: Mapping[str, Any]) -> Self:
        """Take the credentials out of what the caller gave, and log once under which names they stood.

        Raises as :func:`mlflow_ddpm.core.strict_json.as_config`.
        """
        chosen = config if isinstance(config, RunConfig) else None
        settings = redacted(as_config(chosen.config if chosen else config))
        marks, machine = redacted(tags, settings.known), redacted(environment, settings.known)
        names = [*settings.names, *(f"tag {name}" for name in marks.names), *machine.names]
        if names:
            _log.warning(
                "what looks like a credential is recorded as %s, on disk and in MLflow alike: %s",
                HIDDEN,
                ", ".join(names),
            )
        return cls(
            config=freeze(settings.value),
            params=freeze(redacted(chosen.params, settings.known).value if chosen else flatten(settings.value)),
            tags=freeze(flatten(marks.value)),
            environment=freeze(machine.value),
            hidden=(*settings.known, *marks.known),
            dataset=freeze(redacted(chosen.dataset if chosen else {}, settings.known).value),
        )

    def compare_config(self, previous: Mapping[str, Any]) -> None:
        """Warn where a resumed run's config differs: MLflow keeps the first value of a param."""
        first, now = flatten(redacted(previous).value), flatten(self.config)
        changed = [key for key, value in now.items() if key in first and first[key] != value]
        if changed:
            _log.warning(
                "the config has changed since the run began (%s); MLflow's params keep the first values, the JSON "
                "and the report take the new ones",
                ", ".join(f"{key} was {first[key]}, is {now[key]}" for key in changed[:_NAMED_MAX]),
            )


def write_run_config(directory: Path, config: RunConfig) -> None:
    """Write ``config.json``; a disk that refuses it costs the artifact, not the training."""
    with contextlib.suppress(OSError):
        replace_file(directory / CONFIG_NAME, (dumps(redacted(config._asdict()).value, indent=2) + "\n").encode())


def read_run_config(directory: Path, config: Mapping[str, Any]) -> RunConfig | Mapping[str, Any]:
    """Return what :func:`write_run_config` wrote, with this config; the config alone if there is no such file."""
    path = directory / CONFIG_NAME
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _CONFIG_MAX:
            return config
        saved = json.loads(path.read_bytes())
        params, dataset = dict(saved["params"]), dict(saved["dataset"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return config
    is_complete = not dataset or {"name", "digest", "source"} <= dataset.keys()
    return RunConfig(config, {str(k): str(v) for k, v in params.items()}, dataset if is_complete else {})


def describe_environment(device: Any = None) -> dict[str, str | int]:
    """Return versions, device and world size. Nothing is imported for it, and no CUDA context is made.

    ``device`` is the training's device as torch writes it (``"cuda:0"``); None takes the CUDA device in use, else CPU.
    """
    facts: dict[str, str | int] = {"mlflow_ddpm": __version__, "python": platform.python_version()}
    for package in ("torch", "mlflow", "numpy"):
        with contextlib.suppress(PackageNotFoundError, OSError):  # not installed, or no file descriptor is left
            facts[package] = _version(package)
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
