"""One setting: how it is declared, parsed, checked, and shown to a command line.

Ours rather than pydantic's: importing pydantic and building its six models takes 0.23 to 0.29 s, and ``--help``, which
is made from these fields, takes 0.2 s in all; its messages would also have to be rewritten into one line each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field, field, fields
from typing import Any, ClassVar, NamedTuple

from mlflow_ddpm.core.errors import ConfigError

__all__ = [
    "AUTO_FLOAT",
    "AUTO_INT",
    "AUTO_MULTS",
    "FLOAT",
    "INT",
    "TEXT",
    "CheckedSettings",
    "Option",
    "ValueType",
    "setting",
]


class ValueType(NamedTuple):
    """How a setting's text is parsed, which values are accepted, and what an error message expects."""

    parse: Callable[[str], Any]  # ValueError if it cannot
    accepts: Callable[[Any], bool]
    noun: str
    metavar: str  # stands for a value in --help

    def or_auto(self) -> ValueType:
        """Return the same type with ``auto``, which is None."""

        def parse_or_auto(text: str) -> Any:
            return None if text == "auto" else self.parse(text)

        noun = f"{self.noun} or 'auto'"
        return ValueType(parse_or_auto, lambda value: value is None or self.accepts(value), noun, self.metavar)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_multipliers(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 0 and all(_is_int(v) and v > 0 for v in value)


def _parse_multipliers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


INT = ValueType(int, _is_int, "a whole number", "N")
FLOAT = ValueType(float, _is_float, "a finite number", "NUMBER")
TEXT = ValueType(str, lambda value: isinstance(value, str) and value != "", "a non-empty string", "TEXT")
AUTO_INT, AUTO_FLOAT = INT.or_auto(), FLOAT.or_auto()
AUTO_MULTS = ValueType(_parse_multipliers, _is_multipliers, "positive whole numbers such as 1,2,2", "N,N,...").or_auto()

_BOUNDS: dict[str, Callable[[float, float], bool]] = {
    ">": lambda value, limit: value > limit,
    ">=": lambda value, limit: value >= limit,
    "<": lambda value, limit: value < limit,
    "<=": lambda value, limit: value <= limit,
}


def setting(
    flag: str,
    value_type: ValueType,
    default: Any,
    help_text: str,
    *,
    metavar: str = "",
    choices: tuple[str, ...] = (),
    gt: float | None = None,
    ge: float | None = None,
    lt: float | None = None,
    le: float | None = None,
) -> Any:
    """Declare a setting as a dataclass field; its value must be > ``gt``, >= ``ge``, < ``lt`` and <= ``le``.

    ``metavar`` stands for a value in ``--help``: the unit where there is one.
    """
    limits = dict(zip(_BOUNDS, (gt, ge, lt, le), strict=True))
    bounds = tuple((sign, limit) for sign, limit in limits.items() if limit is not None)
    shown = metavar or (f"{{{','.join(choices)}}}" if choices else value_type.metavar)
    metadata = {
        "flag": flag,
        "type": value_type,
        "help": help_text,
        "metavar": shown,
        "choices": choices,
        "bounds": bounds,
    }
    return field(default=default, metadata=metadata)


class CheckedSettings:
    """A group of settings; every field is checked when the group is made."""

    __slots__ = ()
    GROUP: ClassVar[str]

    def __post_init__(self) -> None:
        for declared in fields(self):  # type: ignore[arg-type]
            _check(f"{self.GROUP}.{declared.name}", getattr(self, declared.name), declared)


def _check(name: str, value: Any, declared: Field[Any]) -> None:
    value_type, choices, bounds = (declared.metadata[key] for key in ("type", "choices", "bounds"))
    if not value_type.accepts(value):
        raise ConfigError(f"{name} must be {value_type.noun}, got {value!r}")
    if choices and value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if value is not None and not all(_BOUNDS[sign](value, limit) for sign, limit in bounds):
        wanted = " and ".join(f"{sign} {limit:g}" for sign, limit in bounds)
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")


class Option(NamedTuple):
    """One setting as a command line or an MLproject file sees it."""

    flag: str
    group: str
    field: str
    type: Callable[[str], Any]  # parses the option's text; ValueError if it cannot
    default: Any
    help: str  # with the unit, and what 0 or auto means
    choices: tuple[str, ...]
    noun: str  # what an error message expects
    metavar: str

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
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return "auto" if self.default is None else str(self.default)
