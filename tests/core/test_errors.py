"""The exceptions: all public, each in the tree that the module draws."""

from __future__ import annotations

import inspect
import re

import pytest

import mlflow_ddpm
from mlflow_ddpm.core import errors

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_exception_is_a_public_name_and_one_base_catches_all(kind: type[Exception]) -> None:
    """A caller imports it from the package."""
    assert getattr(mlflow_ddpm, kind.__name__) is kind
    assert issubclass(kind, errors.MlflowDdpmError)


def test_the_tree_of_the_docstring_is_that_of_the_classes() -> None:
    """Deeper lines stand below their base."""
    bases: list[str] = []
    drawn = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r" {4}([│├└─ ]*)(\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 4
            bases[depth:] = [match[2]]
            drawn[match[2]] = bases[depth - 1] if depth else "Exception"

    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES}
