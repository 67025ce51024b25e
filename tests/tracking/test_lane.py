"""A lane: works off its thread until it is stopped, whatever its work raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_ddpm.core.errors import StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.tracking.lane import Activity, Lane
from mlflow_ddpm.tracking.outage import OutageLog


class Work:
    """Raises the errors that it is given, one an attempt, then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.done = list(errors), 0

    def __call__(self) -> None:
        """Make an attempt."""
        if self.errors:
            raise self.errors.pop(0)
        self.done += 1


@contextmanager
def lane_of(work: Work) -> Iterator[Lane]:
    """A lane that has begun."""
    lane = Lane("test", work, OutageLog("rows", advice=None), Activity())
    lane.start()
    yield lane
    lane.stop()


def test_work_is_tried_again_until_it_succeeds() -> None:
    """An outage of the store, and an error that no one foresaw, end nothing."""
    work = Work(StoreUnavailableError("away"), ZeroDivisionError("a bug"))
    with lane_of(work) as lane:
        assert lane.work_until(lambda: work.done > 0, timeout=30)
        assert lane.last_error is None


def test_waiting_ends_early_where_the_store_refuses() -> None:
    """The same call would be refused again, so `close` does not wait for it."""
    refusals: list[Exception] = [StoreRefusedError("no") for _ in range(50)]
    work = Work(*refusals)
    with lane_of(work) as lane:
        assert not lane.work_until(lambda: work.done > 0, timeout=300)
        assert lane.is_refused


def test_an_error_that_is_not_the_stores_is_reported_as_an_outage() -> None:
    """With its kind, so that the log names it."""
    bugs: list[Exception] = [ZeroDivisionError("a bug") for _ in range(50)]
    with lane_of(Work(*bugs)) as lane:
        lane.wait_for(lambda: lane.attempts > 0, timeout=30)

        assert isinstance(lane.last_error, StoreUnavailableError)
        assert "ZeroDivisionError: a bug" in str(lane.last_error)


def test_a_lane_that_was_stopped_works_no_more() -> None:
    """Also for one who waits."""
    work = Work()
    with lane_of(work) as lane:
        lane.work_until(lambda: work.done > 0, timeout=30)
    done = work.done

    assert not lane.can_work
    assert not lane.work_until(lambda: work.done > done, timeout=0.2)
