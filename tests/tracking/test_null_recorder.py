"""The recorder of the other ranks: what a tracker calls is there, and does nothing."""

from __future__ import annotations

import inspect
from pathlib import Path

from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.tracking.null_recorder import NullRecorder
from mlflow_ddpm.tracking.run_recorder import RunRecorder


def test_what_it_has_takes_the_arguments_of_a_recorder() -> None:
    """So that the tracker asks nowhere which of the two it has; what it calls of either, mypy checks."""
    names = {name for name in vars(NullRecorder) if not name.startswith("_")}

    assert names <= vars(RunRecorder).keys()
    for name in names:
        member = getattr(RunRecorder, name)
        if inspect.isfunction(member):
            null = inspect.signature(getattr(NullRecorder, name))
            assert list(inspect.signature(member).parameters) == list(null.parameters)


def test_it_writes_nothing_and_has_nothing_to_send() -> None:
    """Whatever it is given."""
    recorder = NullRecorder()
    recorder.write(EpochMetrics(epoch=0))
    recorder.write_artifact(Path("x"))

    assert recorder.flush(1.0)
    assert recorder.close(RunOutcome("FINISHED"), 1.0)
    assert (recorder.rows, recorder.run_id, recorder.next_epoch) == ((), None, 0)
    assert list(Path().iterdir()) == []
