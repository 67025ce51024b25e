"""Extra metrics: the labels of the pipeline's own, and which names a loop may give."""

from __future__ import annotations

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


def test_axis_labels_end_with_the_unit_where_there_is_one() -> None:
    """A number with a unit never stands without it."""
    assert axis_label("gpu_peak_mb") == "GPU peak (MiB)"
    assert axis_label("lr") == "Learning rate"
    assert axis_label("time/data_sec") == "Data time (s)"
    assert axis_label("fid") == "fid"


def test_the_pipelines_extras_are_described_and_no_name_is_taken_twice() -> None:
    """They are extras like any other: no row has a column for them unless they were measured."""
    names = [m.name for m in PIPELINE_METRICS]
    check_extra_names(names)

    assert len(set(names)) == len(names)
    assert metric("sample/frechet") in PIPELINE_METRICS
    assert metric("my_own").meaning == "Recorded by the training loop."


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
