"""The one table, and the rules for names and superseded rows."""

from __future__ import annotations

import math

import pytest

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.extra_metrics import (
    FORMER_NAMES,
    PIPELINE_METRICS,
    axis_label,
    check_extra_names,
    extra_value,
    metric,
)
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics, keep_last_written

SPECIFIED = [
    *("loss_mean", "loss_std", "loss_min", "loss_max", "loss_median", "lr", "grad_norm"),
    *("samples_per_sec", "batches_per_sec", "gpu_allocated_mb", "gpu_reserved_mb", "gpu_peak_mb"),
    *("ema_delta_norm", "epoch_time_sec", "cumulative_time_sec"),
]


def test_the_table_has_every_specified_metric_by_its_name_and_in_order() -> None:
    """The specification's names bind to the letter."""
    names = [m.name for m in METRICS]

    assert ["epoch", *SPECIFIED, "nonfinite_batches", "skipped_steps", "batches", "partial"] == names


def test_axis_labels_end_with_the_unit_where_there_is_one() -> None:
    """A number with a unit never stands without it."""
    assert axis_label("gpu_peak_mb") == "GPU peak (MiB)"
    assert axis_label("lr") == "Learning rate"
    assert axis_label("time/data_sec") == "Data time (s)"
    assert axis_label("fid") == "fid"


def test_every_metric_says_what_it_means() -> None:
    """Docs and report are derived from these sentences."""
    assert all(m.meaning.endswith(".") and m.label for m in (*METRICS, *PIPELINE_METRICS))


def test_the_pipelines_extras_are_described_and_no_name_is_taken_twice() -> None:
    """They are extras like any other: no row has a column for them unless they were measured."""
    names = [m.name for m in PIPELINE_METRICS]
    check_extra_names(names)

    assert len(set(names)) == len(names)
    assert metric("sample/frechet") in PIPELINE_METRICS
    assert metric("my_own").meaning == "Recorded by the training loop."


def test_points_leave_out_what_was_not_measured_and_keep_what_is_not_finite() -> None:
    """None is no point; NaN is one. The epoch is the step, not a point."""
    row = EpochMetrics(
        epoch=3, loss_mean=math.nan, lr=0.1, nonfinite_batches=2, extra={"fid": math.inf, "skipped": None}
    )

    points = row.points()

    assert points.keys() == {"loss_mean", "lr", "nonfinite_batches", "fid"}
    assert math.isnan(points["loss_mean"])
    assert points["fid"] == math.inf


@pytest.mark.parametrize(
    "names",
    [
        *(["a@b"], ["a//b"], ["../x"], ["/abs"], ["x/"], [""], ["a" * 251], ["a,b"], ['a"b'], ["new\nline"], [7]),
        *(["loss_mean"], ["epoch"], ["logged_at_ms"], ["system/cpu"], ["pp", "pp/q"], ["loss_mean/q1"]),
    ],
)
def test_names_that_some_store_would_refuse_are_refused_at_once(names: list[str]) -> None:
    """No run dies on its first call to MLflow."""
    with pytest.raises(UsageError):
        check_extra_names(names)


def test_usual_names_of_extras_are_taken() -> None:
    """Letters of any script, digits, and _ - . : / and space."""
    check_extra_names(["fid", "loss/q1", "loss/q2", "fréchet distance", "top-5", "v1.2:x"])


def _rows(*written: tuple[int, int]) -> list[EpochMetrics]:
    return [EpochMetrics(epoch=epoch, logged_at_ms=ms) for epoch, ms in written]


def test_a_resume_voids_every_earlier_row_from_its_first_epoch_on() -> None:
    """The second life starts at 2 and ends at 3, before the first one had: epoch 4 of the first life is void, too."""
    first_life = [(0, 10), (1, 20), (2, 30), (3, 40), (4, 50)]
    second_life = [(2, 60), (3, 70)]

    kept = keep_last_written(_rows(*second_life, *first_life))

    assert [(0, 10), (1, 20), (2, 60), (3, 70)] == [(r.epoch, r.logged_at_ms) for r in kept]


def test_a_missing_epoch_stays_missing() -> None:
    """Nothing invents a row."""
    assert [0, 2] == [r.epoch for r in keep_last_written(_rows((0, 1), (2, 3)))]


def test_extras_of_earlier_runs_keep_their_names_and_are_labelled_and_found_as_todays() -> None:
    """A run recorded as ``sample_accuracy`` shows the label of ``sample/accuracy``; a row may hold either."""
    assert metric("sample_accuracy")._replace(name="sample/accuracy") == metric("sample/accuracy")
    assert metric("sample_accuracy").name == "sample_accuracy"
    assert set(FORMER_NAMES.values()) == {m.name for m in PIPELINE_METRICS}
    assert [extra_value(row, "sample/frechet") for row in ({"sample_frechet": 1.0}, {"sample/frechet": 2.0}, {})] == [
        1.0,
        2.0,
        None,
    ]
