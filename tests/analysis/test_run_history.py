"""The history of a run: one row an epoch, its frame made once, its words those of its axis."""

from __future__ import annotations

import math

import pytest

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics


def _history(*epochs: int, **run: object) -> RunHistory:
    rows = [EpochMetrics(epoch=epoch, loss_mean=1.0, logged_at_ms=ms) for ms, epoch in enumerate(epochs)]
    return RunHistory.create(rows, run=run)


def test_rows_as_they_were_written_become_one_row_an_epoch() -> None:
    """A resume at epoch 1 voids what was there."""
    assert [row.epoch for row in _history(0, 1, 2, 1).rows] == [0, 1]


def test_the_frame_is_made_once_and_says_where_the_run_was_resumed() -> None:
    """Everything downstream reads the same one."""
    history = _history(0, 1, 2, resumed_at_epochs=[1])

    assert history.frame is history.frame
    assert history.frame.attrs["resumed_at_epochs"] == (1,)
    assert RunHistory.from_frame(history.frame).resumed_at_epochs == (1,)


@pytest.mark.parametrize("attrs", [("x", "y"), ([None, 1.5], -3), (None, None), ({}, True), (3, 2.5)])
def test_what_another_program_left_in_a_frames_attrs_counts_only_as_whole_numbers(attrs: tuple[object, object]) -> None:
    """A frame carries whatever its owner puts there."""
    frame = _history(0, 1, 2).frame.copy()
    frame.attrs = dict(zip(("resumed_at_epochs", "every_n_steps"), attrs, strict=True))

    assert dict(RunHistory.from_frame(frame).run) == {}


@pytest.mark.parametrize(
    ("epochs", "steps", "spacing"),
    [((), None, 1), ((3,), None, 1), ((0, 5), None, 1), ((0, 5, 10), None, 5), ((500, 1000), 500, 500)],
)
def test_the_usual_distance_of_rows(epochs: tuple[int, ...], steps: int | None, spacing: float) -> None:
    """Every fifth epoch leaves no gap; two epochs alone may well have lost those between them."""
    assert _history(*epochs, every_n_steps=steps).spacing == spacing


def test_texts_on_epochs_speak_of_steps_where_rows_are_windows() -> None:
    """Rules, reports and plots are written once."""
    by_steps = _history(1000, 2000, 3000, every_n_steps=1000)

    assert (by_steps.axis_label, by_steps.worded("lowest in epoch 2000")) == ("Step", "lowest at step 2000")
    assert _history(0).worded("lowest in epoch 0") == "lowest in epoch 0"
    assert by_steps.format_epochs([1000, 2000]) == "1000\N{EN DASH}2000"


@pytest.mark.parametrize("run_id", ["", "../../etc", "a b", 7, None])
def test_what_is_no_run_id_is_not_taken_for_one(run_id: object) -> None:
    """A file that is read back may hold anything; links and commands are made of the id."""
    assert _history(run_id=run_id).run_id is None
    assert _history(resumed_at_epochs="soon").resumed_at_epochs == ()


def test_points_are_finite_and_what_is_not_has_its_epochs_listed() -> None:
    """Not measured is neither."""
    losses = (1.0, math.nan, None, math.inf, 0.5)
    history = RunHistory.create([EpochMetrics(epoch=i, loss_mean=loss) for i, loss in enumerate(losses)])

    assert history.points("loss_mean") == [(0, 1.0), (4, 0.5)]
    assert history.nonfinite_epochs("loss_mean") == [1, 3]
    assert history.nonfinite_epochs("fid") == []


def test_rates_are_per_row_where_rows_are_windows_of_steps() -> None:
    """Numbers of such rows are a window apart, those of epochs one."""
    rows = [EpochMetrics(epoch=epoch, logged_at_ms=epoch) for epoch in (100, 200, 300)]

    assert RunHistory.create(rows).row_length == 1.0
    assert RunHistory.create(rows, run={"every_n_steps": 100}).row_length == 100.0
