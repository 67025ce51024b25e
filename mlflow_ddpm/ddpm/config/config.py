"""The settings of a training run: all groups together, and what "auto" stands for.

The command line's options, the MLproject's parameters and the run's logged parameters are derived from the fields of
:mod:`mlflow_ddpm.ddpm.config.groups`. Nothing heavy is imported: ``--help`` comes from here. A field that is ``None``
("auto" on the command line) takes the preset's value in :meth:`Config.resolve`, and nowhere else.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from mlflow_ddpm.core.errors import ConfigError
from mlflow_ddpm.core.formatting import short_repr
from mlflow_ddpm.ddpm.config.fields import Option, typed_text
from mlflow_ddpm.ddpm.config.groups import (
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    OptimConfig,
    SampleConfig,
    TrainConfig,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of a run. ``dataclasses.asdict`` gives the nested mapping behind names such as ``optim.lr``."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def resolve(self) -> Self:
        """Return the settings with every ``None`` as the preset has it; raise ConfigError if two do not fit."""
        data = "digits" if self.data.name == "digits" else "emnist"
        groups = {group.name: getattr(self, group.name).resolve(self.train.preset, data) for group in fields(self)}
        resolved = replace(self, **groups)
        resolved.check_together()
        return resolved

    def check_together(self) -> None:
        """Check what no field of a resolved configuration can know alone, or raise ConfigError."""
        size, model = self.data.image_size, self.model
        multiple = model.patch_size * 2 ** (len(model.channel_mults) - 1)
        if size % multiple:
            raise ConfigError(
                f"data.image_size must be a multiple of {short_repr(multiple)} (model.patch_size "
                f"{short_repr(model.patch_size)}, doubled by each level of model.channel_mults after the first), "
                f"got {size}"
            )
        if model.base_channels % 8:
            raise ConfigError(f"model.base_channels must be a multiple of 8, got {short_repr(model.base_channels)}")
        if self.sample.steps > self.diffusion.timesteps:
            raise ConfigError(
                f"sample.steps must be <= diffusion.timesteps ({self.diffusion.timesteps}), "
                f"got {short_repr(self.sample.steps)}"
            )

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return the settings as nested plain values, group by group."""
        return asdict(self)


def options() -> list[Option]:
    """Return every setting, in the order of the groups and their fields. Flags are unique over all groups."""
    config = Config()
    return [option for group in fields(config) for option in getattr(config, group.name).options()]


def name_flags(message: str) -> str:
    """Return an error message on settings as the command line's user knows them: ``--lr`` for ``optim.lr``."""
    flags = {option.key: option.flag for option in options()}
    return re.sub(r"\b[a-z]+\.[a-z_0-9]+\b", lambda match: flags.get(match[0], match[0]), message)


def from_options(values: Mapping[str, Any]) -> Config:
    """Return settings from values by :attr:`Option.dest`, the others' defaults; raise ConfigError for a wrong one."""
    known = {o.dest: o for o in options()}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"no such setting: {', '.join(unknown)}; there are {', '.join(known)}")
    groups: dict[str, dict[str, Any]] = {}
    for dest, value in values.items():
        groups.setdefault(known[dest].group, {})[known[dest].field] = value
    config = Config()
    return replace(config, **{name: replace(getattr(config, name), **chosen) for name, chosen in groups.items()})


# What of a run MLflow shows as params, at most 20. ``mlflow run`` logs the parameters of the MLproject file itself, as
# typed. The command line logs the same names, so that both kinds of run compare without "unknown"; beside them stand
# the values that "auto" resolved to. Everything else is in the artifact ``metrics/config.json``.
PROJECT_SETTINGS = ("data", "data_dir", "preset", "epochs", "batch_size", "lr", "seed")  # MLproject, by Option.dest
NO_OPTIONS = "none"  # MLproject's default of ``options``
_NOT_LOGGED = ("threads",)  # resolved from "auto", but no number of the run depends on it


def run_params(config: Config, *, output_dir: str) -> dict[str, str]:
    """Return the params of a configuration and of an output directory, both as typed: not yet resolved."""
    typed, resolved = config.as_dict(), config.resolve().as_dict()
    values = {option.dest: (option, typed[option.group][option.field]) for option in options()}
    named = {dest: typed_text(values[dest][1]) for dest in PROJECT_SETTINGS}
    further = [
        f"{option.flag} {shlex.quote(typed_text(value))}"
        for dest, (option, value) in values.items()
        if dest not in PROJECT_SETTINGS and value != option.default
    ]
    named |= {"output_dir": output_dir, "options": " ".join(further) or NO_OPTIONS}
    auto = [option for option in options() if option.auto and option.dest not in _NOT_LOGGED]
    chosen = {option.key: typed_text(resolved[option.group][option.field]) for option in auto}
    return {**{name: shlex.quote(text) for name, text in named.items()}, **chosen}  # MLflow quotes its own, too
