"""Levels and noise by medians: one wild value moves neither."""

from __future__ import annotations

import pytest

from mlflow_ddpm.analysis.robust_statistics import blocks, level, noise, outliers, sliding_medians


def _points(*values: float) -> list[tuple[int, float]]:
    return list(enumerate(values))


def test_one_wild_value_moves_neither_level_nor_noise() -> None:
    """A mean and a standard deviation would follow it."""
    calm, wild = _points(1, 2, 1, 2, 1, 2, 1), _points(1, 2, 1, 1e9, 1, 2, 1)

    assert level(wild) == level(calm) == 1
    assert noise(wild) < 10


def test_a_slow_course_is_no_noise() -> None:
    """Noise is what neighbours differ by, whatever the series does as a whole."""
    assert noise(_points(*range(100))) == 0
    assert noise(_points(1, 2)) == 0


@pytest.mark.parametrize(("count", "sizes"), [(4, []), (5, [5]), (11, [6, 5]), (400, [10] * 40)])
def test_blocks_are_of_nearly_equal_size_and_leave_nothing_out(count: int, sizes: list[int]) -> None:
    """At least five values each, at most forty blocks; none where there are fewer values."""
    cut = blocks(_points(*range(count)))

    assert sorted(len(block.points) for block in cut) == sorted(sizes)
    assert [point for block in cut for point in block.points] == (_points(*range(count)) if sizes else [])


def test_outliers_stand_out_above_what_came_before_and_neighbours_are_one_run() -> None:
    """The first five values never do; a value at the height of an earlier outlier still does."""
    values = [100.0, 1, 1, 1, 1, 1, 1, 9, 9, 1, 9]

    assert outliers(_points(*values), factor=5, sigmas=3) == [[7, 8], [10]]


def test_sliding_medians_stand_at_the_last_of_their_epochs() -> None:
    """Five values give one."""
    assert sliding_medians([(10, 1.0), (20, 9.0), (30, 2.0), (40, 3.0), (50, 4.0)]) == [(50, 3.0)]
