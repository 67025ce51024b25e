"""What a rule is, and the result that it returns."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.formatting import format_number

MIN_EPOCHS = 10  # before a rule judges a run's course


class RuleHit(NamedTuple):
    """The result of a rule that found something."""

    sentence: str
    epochs: Sequence[int]


class Rule(NamedTuple):
    """One thing to look for."""

    name: str
    title: str
    severity: str  # error, warning or info
    threshold: str  # as the docs and the report state it
    find: Callable[[RunHistory], RuleHit | None]


def rule(title: str, severity: str, threshold: str) -> Callable[[Callable[[RunHistory], RuleHit | None]], Rule]:
    """Make the function below a rule of its name."""
    return lambda find: Rule(find.__name__, title, severity, threshold, find)


def short(value: float) -> str:
    """Return three significant digits: a finding is no table."""
    return format_number(float(f"{value:.3g}"))
