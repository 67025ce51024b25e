"""The params that the pipeline logs to MLflow: what makes one run differ from another, at most 20.

``mlflow run`` logs the parameters of the MLproject file itself, as typed. The command line logs the same names, so that
both kinds of run compare without "unknown"; beside them stand the values that "auto" resolved to. Everything else,
paths, display options and sizes that follow from others, is in the artifact ``metrics/config.json``.
"""

from __future__ import annotations

import shlex
from typing import Any

from mlflow_ddpm.ddpm.config.config import Config, options
from mlflow_ddpm.ddpm.config.fields import Option

__all__ = ["NO_OPTIONS", "PROJECT_SETTINGS", "run_params"]

PROJECT_SETTINGS = ("data", "data_dir", "preset", "epochs", "batch_size", "lr", "seed")  # MLproject, by Option.dest
NO_OPTIONS = "none"  # MLproject's default of ``options``
_NOT_LOGGED = ("threads",)  # resolved from "auto", but no number of the run depends on it


def run_params(config: Config, *, output_dir: str) -> dict[str, str]:
    """Return the params of a configuration as typed, in which "auto" is None, and of an output directory as typed."""
    typed, resolved = config.as_dict(), config.resolve().as_dict()
    values = {option.dest: (option, typed[option.group][option.field]) for option in options()}
    named = {dest: _text(values[dest][1]) for dest in PROJECT_SETTINGS}
    further = [_typed(option, value) for dest, (option, value) in values.items() if dest not in PROJECT_SETTINGS]
    named |= {"output_dir": output_dir, "options": " ".join(filter(None, further)) or NO_OPTIONS}
    auto = [option for option in options() if option.default is None and option.dest not in _NOT_LOGGED]
    chosen = {option.key: _text(resolved[option.group][option.field]) for option in auto}
    return {**{name: shlex.quote(text) for name, text in named.items()}, **chosen}  # MLflow quotes its own, too


def _typed(option: Option, value: Any) -> str:
    """Return the option as a person would type it, or nothing if it has its default."""
    return "" if value == option.default else f"{option.flag} {shlex.quote(_text(value))}"


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return "auto" if value is None else str(value)
