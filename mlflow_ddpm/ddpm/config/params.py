"""The params that the pipeline logs to MLflow: what makes one run differ from another, at most 20.

``mlflow run`` logs the parameters of the MLproject file itself, as typed. The command line logs the same names, so that
both kinds of run compare without "unknown"; beside them stand the values that "auto" resolved to. Everything else,
paths, display options and sizes that follow from others, is in the artifact ``metrics/config.json``.
"""

from __future__ import annotations

import shlex
from typing import Any

from mlflow_ddpm.ddpm.config.config import Config, options
from mlflow_ddpm.ddpm.config.fields import Option, typed_text

PROJECT_SETTINGS = ("data", "data_dir", "preset", "epochs", "batch_size", "lr", "seed")  # MLproject, by Option.dest
NO_OPTIONS = "none"  # MLproject's default of ``options``
_NOT_LOGGED = ("threads",)  # resolved from "auto", but no number of the run depends on it


def run_params(config: Config, *, output_dir: str) -> dict[str, str]:
    """Return the params of a configuration and of an output directory, both as typed: not yet resolved."""
    typed, resolved = config.as_dict(), config.resolve().as_dict()
    values = {option.dest: (option, typed[option.group][option.field]) for option in options()}
    named = {dest: typed_text(values[dest][1]) for dest in PROJECT_SETTINGS}
    further = [_typed(option, value) for dest, (option, value) in values.items() if dest not in PROJECT_SETTINGS]
    named |= {"output_dir": output_dir, "options": " ".join(filter(None, further)) or NO_OPTIONS}
    auto = [option for option in options() if option.default is None and option.dest not in _NOT_LOGGED]
    chosen = {option.key: typed_text(resolved[option.group][option.field]) for option in auto}
    return {**{name: shlex.quote(text) for name, text in named.items()}, **chosen}  # MLflow quotes its own, too


def _typed(option: Option, value: Any) -> str:
    """Return the option as a person would type it, or nothing if it has its default."""
    return "" if value == option.default else f"{option.flag} {shlex.quote(typed_text(value))}"
