"""JSON that every parser reads (RFC 8259), from values that training code really holds.

JSON has no NaN and no infinities; they become the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, the mapping
that protocol buffers use. Everything that has no JSON form becomes its ``str``.
"""

from __future__ import annotations

import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, is_dataclass
from typing import Any

from mlflow_ddpm.core.errors import UsageError

__all__ = ["as_config", "dumps", "flatten", "number", "plain", "read_number"]

_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: object, *, indent: int | None = None) -> str:
    """Return strict JSON text of ``value`` as :func:`plain` sees it."""
    return json.dumps(plain(value), allow_nan=False, ensure_ascii=False, indent=indent)


def number(value: float | None) -> float | str | None:
    """Return the value, or the string that stands for a float JSON has no number for."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def read_number(value: object) -> float | None:
    """Return what :func:`number` wrote.

    Raises:
        ValueError: it is neither a number, nor null, nor one of the three names.
    """
    if isinstance(value, str) and value in _NAMES:
        return _NAMES[value]
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(f"expected a number, null or one of {', '.join(_NAMES)}, got {value!r}")


def plain(value: object) -> Any:
    """Return ``value`` made of dicts, lists, strings, numbers, booleans and None alone."""
    if value is None or isinstance(value, bool | str | int):
        return value if type(value) in (bool, str, int, type(None)) else _builtin(value)
    if isinstance(value, float):
        return number(float(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, AbstractSet):
        return sorted((plain(item) for item in value), key=str)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a NumPy or torch scalar
        return plain(value.item())
    return str(value)


def _builtin(value: object) -> Any:
    """Return the value of a subclass of int or str (an Enum member, say) as the builtin itself."""
    value = getattr(value, "value", value)
    return int(value) if isinstance(value, int) else str(value)


def as_config(config: object) -> dict[str, Any]:
    """Return hyperparameters as a JSON object: of a mapping, a dataclass, or an ``argparse.Namespace``; None is none.

    Raises:
        UsageError: it is something else.
    """
    if config is None:
        return {}
    if isinstance(config, Namespace):
        config = vars(config)
    if not isinstance(config, Mapping) and (not is_dataclass(config) or isinstance(config, type)):
        raise UsageError(f"config must be a mapping, a dataclass or an argparse.Namespace, got {type(config).__name__}")
    told: dict[str, Any] = plain(config)
    return told


def flatten(config: Mapping[str, object]) -> dict[str, str]:
    """Return a config's leaves as text under dotted keys: ``{"optim": {"lr": 0.1}}`` gives ``{"optim.lr": "0.1"}``."""
    return dict(_leaves("", plain(config))) if config else {}


def _leaves(key: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        pairs = ((f"{key}.{name}" if key else name, item) for name, item in value.items())
        return [leaf for name, item in pairs for leaf in _leaves(name, item)]
    return [(key, value if isinstance(value, str) else str(value))]
