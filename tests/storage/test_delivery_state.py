"""What the store has acknowledged: read back as it was written, checked when it is read, saved once a change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.delivery_state import DeliveryState, StateFile
from mlflow_ddpm.storage.layout import DELIVERY_STATE_NAME


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    """A directory without one has none."""
    state = DeliveryState(run_id="abc", started_at_ms=5, pictures={"a.png": 7}, set_aside={"tag x": "too long"})
    assert DeliveryState.load(tmp_path) is None
    state.save(tmp_path)

    assert DeliveryState.load(tmp_path) == state


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"run_id": 7}',
        '{"pictures": []}',
        '{"owned": "yes"}',
        '{"delivered_through_ms": 1.5}',
        "[" * 9999,
    ],
)
def test_a_damaged_state_is_refused_with_the_way_out(content: str, tmp_path: Path) -> None:
    """A directory may come from anyone: each field has its kind."""
    (tmp_path / DELIVERY_STATE_NAME).write_text(content)

    with pytest.raises(MirrorError, match="move it away"):
        DeliveryState.load(tmp_path)


def test_a_json_keeps_enough_of_the_state_for_a_directory_that_lost_its_hidden_files() -> None:
    """Copying with ``cp dir/* elsewhere`` leaves them behind."""
    state = DeliveryState(run_id="abc", started_at_ms=5, resumed_at_epochs=[3], owned=False, every_n_steps=10)
    state.set_outcome(RunOutcome("FAILED", "ValueError", "x", at_ms=9))
    again = DeliveryState.of_run({"run_id": "abc", **state.as_run()})

    assert again is not None
    assert again.as_run() == state.as_run()
    assert DeliveryState.of_run({"run_name": "never created"}) is None


def test_each_change_is_on_disk_when_it_is_made_unless_it_is_one_of_many(tmp_path: Path) -> None:
    """What is gathered is saved at the end; after the close, the file is the next writer's."""

    def saved() -> int:
        return int(json.loads((tmp_path / DELIVERY_STATE_NAME).read_text())["delivered_through_ms"])

    file = StateFile(tmp_path, DeliveryState())
    file.put(delivered_through_ms=1)
    assert saved() == 1
    with file.gathered():
        for number in (2, 3):
            file.put(delivered_through_ms=number)
    assert saved() == 3
    file.close()
    file.put(delivered_through_ms=4)
    assert saved() == 3
