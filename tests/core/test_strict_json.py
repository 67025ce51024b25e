"""What real configs hold becomes strict JSON, readable and never an error."""

from __future__ import annotations

import enum
import json
import math
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from mlflow_ddpm import UsageError
from mlflow_ddpm.core.strict_json import as_config, dumps, flatten, freeze, number, plain, read_number


class Colour(enum.Enum):
    """An Enum whose values are no JSON scalars of their own."""

    RED = "red"


class Mode(enum.StrEnum):
    """An Enum of texts."""

    FAST = "fast"


class Level(enum.IntEnum):
    """An Enum of integers."""

    HIGH = 3


class Unprintable:
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class UnhashableName:
    """Raises wherever it is touched."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise KeyError("no text")


class Interpolated(Mapping[str, Any]):
    """As OmegaConf's DictConfig: a key whose value cannot be resolved raises when it is read."""

    def __getitem__(self, key: str) -> Any:
        if key == "missing":
            raise ValueError("Missing mandatory value")
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["lr", "missing"])

    def __len__(self) -> int:
        return 2


class DuckMapping:
    """As ml_collections' ConfigDict: a mapping that is not registered as one."""

    def keys(self) -> list[str]:
        """Return the keys."""
        return ["lr"]

    def items(self) -> list[tuple[str, float]]:
        """Return keys and values."""
        return [("lr", 0.1)]


@dataclass
class Inner:
    """A dataclass with a path and a NaN."""

    path: Path = Path("a/b")
    weights: list[float] = field(default_factory=lambda: [1.0, math.nan])


class Settings(BaseModel):
    """A pydantic model with a secret."""

    lr: float = 0.1
    token: SecretStr = SecretStr("hunter2")


def cyclic() -> dict[str, Any]:
    """Return a config that holds itself, in a list as well."""
    config: dict[str, Any] = {"lr": 0.1}
    config["self"] = config
    config["all"] = [config]
    return config


def nested(levels: int) -> Any:
    """Return a dict in a dict in a dict."""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


CASES: list[tuple[Any, Any]] = [
    (cyclic(), {"lr": 0.1, "self": "<refers to itself>", "all": ["<refers to itself>"]}),
    ({"model": Unprintable()}, {"model": "<Unprintable that cannot be shown: RuntimeError>"}),
    ({Unprintable(): 1}, {"<Unprintable that cannot be shown: RuntimeError>": 1}),
    ({"x": UnhashableName()}, {"x": "<UnhashableName that cannot be shown: RuntimeError>"}),
    (Interpolated(), {"lr": 1, "missing": "<ValueError>"}),
    (DuckMapping(), {"lr": 0.1}),
    (Settings(), {"lr": 0.1, "token": "**********"}),
    (Namespace(a=1, inner=SimpleNamespace(b=2)), {"a": 1, "inner": {"b": 2}}),
    ({"inner": Inner()}, {"inner": {"path": "a/b", "weights": [1.0, "NaN"]}}),
    (
        {1: "a", "1": "b", 1.5: "c", None: "d", (1, 2): "e"},
        {"1": "a", "1_2": "b", "1.5": "c", "None": "d", "[1, 2]": "e"},
    ),
    ({math.nan: 1, math.inf: 2}, {"NaN": 1, "Infinity": 2}),
    (
        {"e": Colour.RED, "s": Mode.FAST, "i": Level.HIGH, Mode.FAST: 1},
        {"e": "Colour.RED", "s": "fast", "i": 3, "fast": 1},
    ),
    ({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True)}, {"a": 0.5, "b": 3, "c": True}),
    ({"a": np.arange(3), "b": np.zeros((100, 100))}, {"a": [0, 1, 2], "b": "<numpy.ndarray (100, 100)>"}),
    (
        {"a": torch.tensor(0.5), "b": torch.zeros(2), "c": torch.zeros(9, 9)},
        {"a": 0.5, "b": [0.0, 0.0], "c": "<torch.Tensor (9, 9)>"},
    ),
    (
        {"f": math.sqrt, "c": OrderedDict, "g": nested},
        {"f": "math.sqrt", "c": "collections.OrderedDict", "g": f"{__name__}.nested"},
    ),
    (
        {"s": {3, 1}, "r": range(3), "t": (1, "a"), "d": Decimal("0.1")},
        {"s": [1, 3], "r": [0, 1, 2], "t": [1, "a"], "d": "0.1"},
    ),
    (
        {"b": b"ab", "surrogate": "a\udc80", "big": 10**5000},
        {"b": "b'ab'", "surrogate": "a\\udc80", "big": "<integer of 16610 bits>"},
    ),
]


@pytest.mark.parametrize(("config", "expected"), CASES, ids=lambda value: type(value).__name__)
def test_every_object_is_recorded_as_something_readable(config: object, expected: object) -> None:
    """As a value, and as JSON that the standard library reads back."""
    assert plain(config) == expected
    assert json.loads(dumps(config)) == expected
    assert as_config(config) == expected
    dumps(config).encode()


def test_a_generator_is_not_consumed() -> None:
    """It belongs to the training."""
    generator = (i for i in range(3))
    plain({"data": generator})

    assert list(generator) == [0, 1, 2]


def test_what_is_too_deep_or_too_long_is_cut_once() -> None:
    """And the place shows it."""
    config = {"deep": nested(2000), "list": list(range(1_000_000)), "text": "x" * 1_000_000}
    config["dict"] = {i: i for i in range(20_000)}
    once = plain(config)

    assert len(json.dumps(once)) < 400_000
    assert "<nested too deeply>" in json.dumps(once["deep"])
    assert once["list"][-1] == "<995000 more>"
    assert once["text"].endswith("(950000 more characters)")
    assert once["dict"]["..."] == "<more keys>"
    assert plain(once) == once


def test_wide_and_deep_together_end_soon() -> None:
    """Five thousand lists of five thousand numbers are not written."""
    assert len(dumps(plain({"grid": [list(range(5000))] * 5000}))) < 2_000_000


@pytest.mark.parametrize("config", [3, "lr=0.1", [1, 2], Inner, {1, 2}], ids=str)
def test_what_is_no_config_is_refused(config: object) -> None:
    """One line names what was expected and what came."""
    with pytest.raises(UsageError, match=r"config must be a mapping, a dataclass or an argparse\.Namespace, got "):
        as_config(config)


def test_leaves_of_one_dotted_key_are_all_kept() -> None:
    """Params are flat; a dictionary with dots in its keys may clash with a nested one."""
    assert flatten({"a.b": 1, "a": {"b": 2, "c": {}}, "l": (1, "x"), "n": None}) == {
        "a.b": "1",
        "a.b_2": "2",
        "a.c": "{}",
        "l": "[1, 'x']",
        "n": "None",
    }
    assert flatten({}) == {}


def test_frozen_values_cannot_be_changed_and_are_written_as_before() -> None:
    """Whoever is handed a run's config reads it."""
    value = {"a": {"b": [1, {"c": 2}]}}
    frozen = freeze(value)

    with pytest.raises(TypeError):
        frozen["a"]["b"] = 1
    assert frozen["a"]["b"][1] == {"c": 2}
    assert dumps(frozen) == dumps(value)
    assert flatten(frozen) == flatten(value)


@pytest.mark.parametrize("value", [None, 0.5, 3, math.inf, -math.inf])
def test_numbers_are_read_back_as_they_were(value: float | None) -> None:
    """Those that JSON cannot write included."""
    assert read_number(json.loads(json.dumps(number(value)))) == value


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.floats(), inner),
    )
)
def test_any_value_is_written_as_strict_json(value: object) -> None:
    """And what is plain stays as it is."""
    once = plain(value)

    assert plain(once) == once
    assert json.loads(dumps(once), parse_constant=pytest.fail) == once
