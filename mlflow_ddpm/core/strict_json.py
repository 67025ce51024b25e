"""JSON that every parser reads (RFC 8259), from values that training code really holds.

JSON has no NaN and no infinities; they become the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, the mapping
that protocol buffers use. Everything that has no JSON form becomes its ``str``. ``pydantic_core.to_json`` writes the
same strings, but raises on cycles, deep nesting, lone surrogates and objects whose ``str`` raises. A config may hold
all of them, and no training may end for it.
"""

import json
import math
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MappingProxyType, SimpleNamespace
from typing import Any

from mlflow_ddpm.core.errors import UsageError

_NAMES = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# A config is there to be read: what is larger is cut, and the place shows it.
_DEPTH_MAX, _ITEMS_MAX, _VALUES_MAX, _TEXT_MAX, _ARRAY_MAX, _INTEGER_BITS = 30, 5000, 50_000, 50_000, 64, 4096
_MORE = "..."
_TOO_DEEP = "<nested too deeply>"


def dumps(value: object, *, indent: int | None = None) -> str:
    """Return strict JSON text of ``value``; what is no JSON value goes through :func:`plain`."""
    try:
        return json.dumps(value, default=_jsonable, allow_nan=False, ensure_ascii=False, indent=indent)
    except (TypeError, ValueError, RecursionError):  # a NaN, a key that is no string, a cycle
        return json.dumps(plain(value), allow_nan=False, ensure_ascii=False, indent=indent)


def _jsonable(value: object) -> Any:
    return dict(value) if isinstance(value, MappingProxyType) else plain(value)


def number(value: float | None) -> float | str | None:
    """Return the value, or the string that stands for a float JSON has no number for."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def read_number(value: object) -> float | None:
    """Return what :func:`number` wrote; raise ValueError for anything else."""
    if isinstance(value, str) and value in _NAMES:
        return _NAMES[value]
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise ValueError(f"expected a number, null or one of {', '.join(_NAMES)}, got {value!r}")


def plain(value: object) -> Any:
    """Return ``value`` made of dicts, lists, strings, numbers, booleans and None alone; never raise."""
    return _Plain().plain(value, ())


def freeze(value: Any) -> Any:
    """Return a plain value as read-only mappings and tuples."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(item) for key, item in value.items()})
    return tuple(freeze(item) for item in value) if isinstance(value, list | tuple) else value


class _Plain:
    """One walk through a value."""

    def __init__(self) -> None:
        self._count = 0  # values seen

    def plain(self, value: Any, parents: tuple[int, ...]) -> Any:
        """Return the value as plain data; ``parents`` are the ids of the containers around it."""
        self._count += 1
        if value is None or type(value) is bool:
            return value
        try:
            return _scalar(value) if isinstance(value, str | int | float) else self._container(value, parents)
        except RecursionError:
            return _TOO_DEEP
        except Exception as error:  # noqa: BLE001 - a property, an iterator or a __str__ of any library
            return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"

    def _container(self, value: Any, parents: tuple[int, ...]) -> Any:
        if id(value) in parents:
            return "<refers to itself>"
        if len(parents) >= _DEPTH_MAX:
            return _TOO_DEEP
        inside = (*parents, id(value))
        pairs = _pairs(value)
        if pairs is not None:
            return self._dict(pairs, inside)
        if isinstance(value, AbstractSet):
            return sorted(self._list(value, len(value), inside), key=str)
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
            return self._list(value, len(value), inside)
        if hasattr(value, "shape") and hasattr(value, "tolist"):  # NumPy's and torch's arrays and scalars
            if math.prod(value.shape) <= _ARRAY_MAX:
                return self.plain(value.tolist(), inside)
            return f"<{type(value).__module__}.{type(value).__qualname__} {tuple(value.shape)}>"
        if isinstance(value, type | FunctionType | BuiltinFunctionType):
            return f"{value.__module__}.{value.__qualname__}"
        return _text(str(value))

    def _list(self, items: Iterable[Any], length: int, parents: tuple[int, ...]) -> list[Any]:
        room = self._room()
        result = [self.plain(item, parents) for item in islice(items, length if length <= room + 1 else room)]
        return [*result, f"<{length - len(result)} more>"] if len(result) < length else result

    def _dict(self, pairs: Iterable[tuple[Any, Any]], parents: tuple[int, ...]) -> dict[str, Any]:
        """Return a dict with keys of text; of keys that are the same as text, the later ones get a number."""
        result: dict[str, Any] = {}
        room = self._room()
        for key, item in pairs:
            if len(result) >= room and key != _MORE:
                result[_MORE] = "<more keys>"
                break
            result[_unused(str(self.plain(key, parents)), result)] = self.plain(item, parents)
        return result

    def _room(self) -> int:
        return max(0, min(_ITEMS_MAX, _VALUES_MAX - self._count))


def _scalar(value: Any) -> Any:
    """Return a string, an int or a float, or a member of an Enum of them, as the builtin itself."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return _text(str(value))
    if isinstance(value, float):
        return number(float(value))
    return int(value) if value.bit_length() <= _INTEGER_BITS else f"<integer of {value.bit_length()} bits>"


def _pairs(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """Return the keys and values of a mapping or of an object with declared fields; None for anything else."""
    if isinstance(value, Mapping):
        return ((key, _get(value, key)) for key in value)
    if isinstance(value, type):
        return None
    if is_dataclass(value):
        return ((field.name, getattr(value, field.name, None)) for field in fields(value))
    if isinstance(value, Namespace | SimpleNamespace):
        return vars(value).items()
    declared = getattr(type(value), "model_fields", None) or getattr(type(value), "__attrs_attrs__", None)
    if isinstance(declared, Mapping | tuple):  # pydantic, attrs
        names = declared if isinstance(declared, Mapping) else [field.name for field in declared]
        return ((name, getattr(value, name, None)) for name in names)
    return value.items() if hasattr(value, "keys") and hasattr(value, "items") else None


def _get(mapping: Mapping[Any, Any], key: Any) -> Any:
    try:
        return mapping[key]
    except Exception as error:  # noqa: BLE001 - a missing value or an interpolation of OmegaConf, say
        return f"<{type(error).__name__}>"


def _unused(key: str, taken: Mapping[str, Any]) -> str:
    """Return the key, or with a number where it is taken."""
    counter, name = 1, key
    while name in taken:
        counter += 1
        name = f"{key}_{counter}"
    return name


def _text(text: str) -> str:
    """Return a text that UTF-8 can hold, cut at a length that is still read."""
    if len(text) > _TEXT_MAX + 50:  # what was cut once is not cut again
        text = f"{text[:_TEXT_MAX]}... ({len(text) - _TEXT_MAX} more characters)"
    return text.encode("utf-8", "backslashreplace").decode()


def as_config(config: object) -> dict[str, Any]:
    """Return hyperparameters as a JSON object, an empty one for None; raise UsageError unless they have names.

    Those of a mapping, a dataclass, an ``argparse.Namespace`` or the like have.
    """
    if config is None:
        return {}
    if isinstance(config, type) or _pairs(config) is None:
        raise UsageError(f"config must be a mapping, a dataclass or an argparse.Namespace, got {type(config).__name__}")
    settings = plain(config)
    return settings if isinstance(settings, dict) else {"config": settings}


def flatten(config: Mapping[str, object]) -> dict[str, str]:
    """Return a config's leaves as text under dotted keys: ``{"optim": {"lr": 0.1}}`` gives ``{"optim.lr": "0.1"}``.

    Two leaves of one dotted key (``{"a.b": 1, "a": {"b": 2}}``) are both kept, the later one as ``a.b_2``.
    """
    flat: dict[str, str] = {}
    for key, value in _leaves("", config):
        flat[_unused(key, flat)] = value
    return flat


def _leaves(key: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and (value or not key):
        pairs = ((f"{key}.{name}" if key else str(name), item) for name, item in value.items())
        return [leaf for name, item in pairs for leaf in _leaves(name, item)]
    return [(key, value if isinstance(value, str) else str(plain(value)))]
