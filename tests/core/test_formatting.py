"""Numbers in reports are short and never lie about what was measured."""

from __future__ import annotations

import math

import pytest

from mlflow_ddpm.core.formatting import format_duration, format_epochs, format_number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "\N{EN DASH}"),
        (math.nan, "NaN"),
        (math.inf, "Inf"),
        (-math.inf, "-Inf"),
        (0, "0"),
        (7, "7"),
        (0.0, "0"),
        (-0.0, "0"),
        (0.001, "0.001"),
        (0.1233987, "0.12340"),
        (-1.23456789, "-1.2346"),
        (9.999999, "10.0000"),
        (12345.678, "12346"),
        (81920.0, "81920"),
        (1234567.8, "1234568"),
        (1e-5, "1e-05"),
        (1.2345678e-5, "1.2346e-05"),
        (5e-324, "4.9407e-324"),
        (12.25, "12.25"),
        (2e7, "2e+07"),
        (1.7976931348623157e308, "1.7977e+308"),
    ],
)
def test_numbers_have_about_five_digits(value: float | None, expected: str) -> None:
    """Short exact values stay short; not measured, NaN and infinities stay apart."""
    assert expected == format_number(value)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "not measured"),
        (math.nan, "NaN s"),
        (0.0, "0 s"),
        (59.94, "59.94 s"),
        (59.9999, "1 min 00 s (60.0 s)"),
        (3599.6, "1 h 00 min 00 s (3599.6 s)"),
        (90061.0, "25 h 01 min 01 s (90061.0 s)"),
    ],
)
def test_durations_are_read_at_once_and_exact(seconds: float | None, expected: str) -> None:
    """Hours, minutes and seconds, and the seconds alone for arithmetic."""
    assert expected == format_duration(seconds)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        ([], ""),
        ([3], "3"),
        ([9, 3, 4, 5, 4], "3\N{EN DASH}5, 9"),
        (list(range(0, 24, 2)), "0, 2, 4, 6, 8, 10, 12, 14 and 4 more"),
    ],
)
def test_epochs_are_listed_as_ranges(epochs: list[int], expected: str) -> None:
    """A long list ends with how many more there are."""
    assert expected == format_epochs(epochs)
