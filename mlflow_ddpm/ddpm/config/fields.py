"""One setting: how it is declared, parsed, checked, and shown to a command line.

Ours rather than pydantic's: importing pydantic and building its six models takes 0.23 to 0.29 s, and ``--help``, which
is made from these fields, takes 0.2 s in all; its messages would also have to be rewritten into one line each.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from dataclasses import field, fields, replace
from typing import Any, NamedTuple, Self

from mlflow_ddpm.core.errors import ConfigError
from mlflow_ddpm.core.formatting import short_repr

PRESETS = ("laptop", "gpu", "large")
ByPreset = tuple[Any, Any, Any]  # a setting's values, in the order of PRESETS


class _ValueType(NamedTuple):
    """How a setting's text is parsed, which values are accepted, and what an error message expects."""

    parse: Callable[[str], Any]  # ValueError if it cannot
    accepts: Callable[[Any], bool]
    noun: str
    metavar: str  # stands for a value in --help


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_TYPES = {  # by annotation
    "int": _ValueType(int, _is_int, "a whole number", "N"),
    "float": _ValueType(
        float,
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= sys.float_info.max,  # no NaN
        "a finite number",
        "NUMBER",
    ),
    "str": _ValueType(str, lambda v: isinstance(v, str) and v != "", "a non-empty string", "TEXT"),
    "tuple[int, ...]": _ValueType(
        lambda text: tuple(int(part) for part in text.split(",")),
        lambda v: isinstance(v, tuple) and len(v) > 0 and all(_is_int(n) and n > 0 for n in v),
        "positive whole numbers such as 1,2,2",
        "N,N,...",
    ),
}
_COMPARISONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def setting(
    help_text: str,
    default: Any = None,
    *,
    auto: ByPreset | dict[str, ByPreset] | None = None,
    flag: str = "",
    metavar: str = "",
    choices: tuple[str, ...] = (),
    bounds: str = "",
) -> Any:
    """Declare a setting as a dataclass field, with its ``bounds`` such as ">= 0 and < 1".

    The field's annotation is the type of its value. Without a default the setting is "auto": ``auto`` has its values,
    by preset, or by ``digits`` and ``emnist`` and by preset. ``flag`` is the option, where it is not named as the
    field; ``metavar`` stands for a value in ``--help``: the unit where there is one.
    """
    shown = metavar or (f"{{{','.join(choices)}}}" if choices else "")
    metadata = {"help": help_text, "flag": flag, "metavar": shown, "choices": choices, "bounds": bounds, "auto": auto}
    return field(default=default, metadata=metadata)


def typed_text(value: Any) -> str:
    """Return a setting's value as a person would type it."""
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return "auto" if value is None else str(value)


class CheckedSettings:
    """A group of settings, named for its class: ``DataConfig`` is ``data``. Every field is checked when it is made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for option in self.options():
            option.check(getattr(self, option.field))

    @classmethod
    def options(cls) -> list[Option]:
        """Return the group's settings, in the order of its fields."""
        group = cls.__name__.removesuffix("Config").lower()
        made = []
        for declared in fields(cls):  # type: ignore[arg-type]
            kind = _TYPES[str(declared.type)]
            declaration = dict(declared.metadata)
            declaration["flag"] = declaration["flag"] or "--" + declared.name.replace("_", "-")
            declaration["metavar"] = declaration["metavar"] or kind.metavar
            made.append(Option(group, declared.name, kind, declared.default, **declaration))
        return made

    def resolve(self, preset: str, data: str) -> Self:
        """Return the group with every None replaced by its value of the preset, for ``digits`` or ``emnist``."""
        chosen = {}
        for option in self.options():
            if option.auto and getattr(self, option.field) is None:
                by_preset = option.auto[data] if isinstance(option.auto, dict) else option.auto
                chosen[option.field] = by_preset[PRESETS.index(preset)]
        return replace(self, **chosen)  # type: ignore[type-var]


class Option(NamedTuple):
    """One setting as a command line or an MLproject file sees it."""

    group: str
    field: str
    kind: _ValueType
    default: Any  # None: "auto"
    flag: str
    metavar: str
    help: str  # with the unit, and what 0 or auto means
    choices: tuple[str, ...]
    bounds: str
    auto: ByPreset | dict[str, ByPreset] | None

    @property
    def dest(self) -> str:
        """The name under which argparse, MLproject and :func:`from_options` know the option."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def key(self) -> str:
        """The dotted name of errors, params and config.json, such as ``optim.lr``."""
        return f"{self.group}.{self.field}"

    @property
    def default_text(self) -> str:
        """The default as a person would type it; ``type(default_text) == default``."""
        return typed_text(self.default)

    @property
    def noun(self) -> str:
        """What an error message expects."""
        return f"{self.kind.noun} or 'auto'" if self.auto else self.kind.noun

    def type(self, text: str) -> Any:
        """Return the value of the option's text; ValueError if it has none."""
        return None if self.auto and text == "auto" else self.kind.parse(text)

    def check(self, value: Any) -> None:
        """Raise ConfigError for a value of another type or out of range."""
        if value is None and self.auto:
            return
        if not self.kind.accepts(value):
            raise ConfigError(f"{self.key} must be {self.noun}, got {short_repr(value)}")
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.key} must be one of {', '.join(self.choices)}, got {short_repr(value)}")
        bounds = [bound.split() for bound in self.bounds.split(" and ") if bound]
        if not all(_COMPARISONS[sign](value, float(limit)) for sign, limit in bounds):
            raise ConfigError(f"{self.key} must be {self.bounds}, got {short_repr(value)}")
