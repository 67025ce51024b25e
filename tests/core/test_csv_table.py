"""Every CSV file of the package, read back with the standard library."""

from __future__ import annotations

import csv
import io
import math

import numpy as np

from mlflow_ddpm.core.csv_table import csv_bytes


def test_cells_read_back_as_they_were() -> None:
    """Floats to the last bit, numpy's as plain ones, texts with commas, quotes, line feeds; None is an empty cell."""
    numbers = [0.1 + 0.2, 5e-324, math.inf, 7, np.float64(1 / 3), None]
    texts = ["a,b", 'say "x"', "two\nlines", "Größe", "", None]
    header, first, second = csv.reader(io.StringIO(csv_bytes(list("abcdef"), [numbers, texts]).decode(), newline=""))

    assert header == list("abcdef")
    assert first == ["0.30000000000000004", "5e-324", "inf", "7", "0.3333333333333333", ""]
    assert second == ["a,b", 'say "x"', "two\nlines", "Größe", "", ""]
    assert csv_bytes(["a"], []) == b"a\n"
