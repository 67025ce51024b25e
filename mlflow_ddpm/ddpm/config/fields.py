"""One setting: how it is declared, parsed, checked, and shown to a command line. Imports nothing heavy."""

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
    "CheckedOptions",
    "Kind",
    "Option",
    "multipliers_or_auto",
    "number_or_auto",
    "option",
    "whole_number_or_auto",
]


def whole_number_or_auto(text: str) -> int | None:
    """Parse a whole number; ``auto`` is None."""
    return None if text == "auto" else int(text)


def number_or_auto(text: str) -> float | None:
    """Parse a number; ``auto`` is None."""
    return None if text == "auto" else float(text)


def multipliers_or_auto(text: str) -> tuple[int, ...] | None:
    """Parse whole numbers divided by commas; ``auto`` is None."""
    return None if text == "auto" else tuple(int(part) for part in text.split(","))


class Kind(NamedTuple):
    """How a field's text is parsed, what its value must be, and how an error names that."""

    parse: Callable[[str], Any]
    accepts: Callable[[Any], bool]
    noun: str


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_multipliers(value: object) -> bool:
    return value is None or (isinstance(value, tuple) and len(value) > 0 and all(_is_int(v) and v > 0 for v in value))


INT = Kind(int, _is_int, "a whole number")
FLOAT = Kind(float, _is_float, "a finite number")
TEXT = Kind(str, lambda v: isinstance(v, str) and v != "", "a non-empty string")
AUTO_INT = Kind(whole_number_or_auto, lambda v: v is None or _is_int(v), "a whole number or 'auto'")
AUTO_FLOAT = Kind(number_or_auto, lambda v: v is None or _is_float(v), "a finite number or 'auto'")
AUTO_MULTS = Kind(multipliers_or_auto, _is_multipliers, "positive whole numbers such as 1,2,2, or 'auto'")


def option(
    flag: str,
    kind: Kind,
    default: Any,
    help_text: str,
    *,
    choices: tuple[str, ...] = (),
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> Any:
    """Declare a setting as a dataclass field; ``above`` and ``below`` are exclusive, ``least`` and ``most`` are not."""
    ranges = [(">", above), (">=", least), ("<", below), ("<=", most)]
    bounds = tuple((sign, limit) for sign, limit in ranges if math.isfinite(limit))
    about = {"flag": flag, "kind": kind, "help": help_text, "choices": choices, "bounds": bounds}
    return field(default=default, metadata=about)


_WITHIN: dict[str, Callable[[float, float], bool]] = {
    ">": lambda value, limit: value > limit,
    ">=": lambda value, limit: value >= limit,
    "<": lambda value, limit: value < limit,
    "<=": lambda value, limit: value <= limit,
}


class CheckedOptions:
    """Checks every field of a group when it is made."""

    __slots__ = ()
    GROUP: ClassVar[str]

    def __post_init__(self) -> None:
        for f in fields(self):  # type: ignore[arg-type]
            _check(f"{self.GROUP}.{f.name}", getattr(self, f.name), f)


def _check(name: str, value: Any, f: Field[Any]) -> None:
    about = f.metadata
    if not about["kind"].accepts(value):
        raise ConfigError(f"{name} must be {about['kind'].noun}, got {value!r}")
    if about["choices"] and value not in about["choices"]:
        raise ConfigError(f"{name} must be one of {', '.join(about['choices'])}, got {value!r}")
    bounds = about["bounds"]
    if value is not None and not all(_WITHIN[sign](value, limit) for sign, limit in bounds):
        wanted = " and ".join(f"{sign} {limit:g}" for sign, limit in bounds)
        raise ConfigError(f"{name} must be {wanted}, got {value!r}")


class Option(NamedTuple):
    """What a command line or an MLproject file needs to know of one setting."""

    flag: str
    group: str
    field: str
    type: Callable[[str], Any]  # parses the option's text; ValueError if it cannot
    default: Any
    help: str  # with the unit, and what 0 or auto means
    choices: tuple[str, ...]

    @property
    def dest(self) -> str:
        """The name under which argparse, MLproject and :func:`from_options` know the option."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def default_text(self) -> str:
        """The default as it would be typed; ``type(default_text) == default``."""
        if isinstance(self.default, tuple):
            return ",".join(map(str, self.default))
        return "auto" if self.default is None else str(self.default)
