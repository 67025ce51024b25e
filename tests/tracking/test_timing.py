"""Seconds of an epoch: pauses are left out, and nothing that was not measured becomes a rate."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from mlflow_ddpm.tracking.timing import AccumulatingTimer, EpochTimer, rate, unix_ms

if TYPE_CHECKING:
    from support.common import HandClock


def test_an_epochs_time_leaves_out_what_was_paused_even_if_that_raised(clock: HandClock) -> None:
    """Sampling for six seconds inside an epoch of ten leaves four."""
    timer = EpochTimer(clock, device=None)
    timer.start()
    clock.seconds += 4
    with contextlib.suppress(ValueError), timer.paused():
        clock.seconds += 6
        raise ValueError("sampling failed")

    assert (timer.stop(), timer.paused_sec) == (4, 6)
    timer.start()
    assert timer.paused_sec == 0


def test_a_pause_within_a_pause_counts_once_and_an_open_one_from_where_the_epoch_began(clock: HandClock) -> None:
    """An epoch that ends inside ``paused()`` lasted until then; the next one begins paused."""
    timer = EpochTimer(clock, device=None)
    timer.start()
    clock.seconds += 4
    with timer.paused():
        clock.seconds += 1
        with timer.paused():
            clock.seconds += 2
        ended = timer.stop()
        timer.start()
        clock.seconds += 8
    clock.seconds += 16

    assert (ended, timer.stop(), timer.paused_sec) == (4, 16, 8)


def test_an_accumulating_timer_adds_up_and_starts_from_zero_when_it_is_read(clock: HandClock) -> None:
    """One read an epoch."""
    timer = AccumulatingTimer(clock)
    for seconds in (1, 2):
        with timer:
            clock.seconds += seconds
        clock.seconds += 10

    assert (timer.take(), timer.take()) == (3, 0)


@pytest.mark.parametrize(("count", "seconds", "expected"), [(10, 4.0, 2.5), (None, 4.0, None), (10, 0.0, None)])
def test_a_rate_is_not_measured_without_a_count_or_a_time(
    count: int | None, seconds: float, expected: float | None
) -> None:
    """An epoch too short for the clock has no throughput, not an infinite one."""
    assert rate(count, seconds) == expected


def test_times_of_rows_are_unix_milliseconds() -> None:
    """As MLflow wants its timestamps."""
    assert abs(unix_ms() / 1000 - time.time()) < 60
