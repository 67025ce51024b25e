"""The lines that ``mlflow-ddpm status`` prints, from the disk alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_ddpm.core.errors import HistoryError, MirrorError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.images import image_path
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.storage.status import status_of

FINISHED = DeliveryState(
    tracking_uri="sqlite:///x.db",
    run_id="abc",
    run_name="owl",
    delivered_through_ms=1002,
    status="FINISHED",
    ended=True,
)


def _directory(place: Path, state: DeliveryState) -> Path:
    mirror = Mirror(place).open()
    for epoch in range(3):
        mirror.write(EpochMetrics(epoch=epoch, loss_mean=1.0, logged_at_ms=1000 + epoch))
    mirror.close(RunOutcome("FINISHED"))
    state.save(place)
    return place


def _lines(directory: Path) -> dict[str, str]:
    pairs = [line.split(maxsplit=1) for line in status_of(directory).splitlines()[1:]]
    return {name: text for name, text in pairs if name != "set"}


def test_a_complete_run_needs_nothing(tmp_path: Path) -> None:
    """Name, store, end, counts."""
    lines = _lines(_directory(tmp_path, replace(FINISHED, ended_at_ms=1_700_000_000_000)))

    assert lines == {
        "run": "abc (owl)",
        "store": "sqlite:///x.db",
        "status": "FINISHED at 2023-11-14 22:13:20 UTC; MLflow has it",
        "epochs": "3 on disk, 3 in MLflow, 0 waiting",
        "pictures": "0 on disk, 0 in MLflow, 0 waiting",
        "next": "nothing: MLflow has everything",
    }


@pytest.mark.parametrize("uri", ["sqlite:///x.db", "http://127.0.0.1:5000", "https://mlflow.example.org/ml"])
def test_the_page_is_named_and_what_serves_it(uri: str, tmp_path: Path) -> None:
    """A store without a server needs `mlflow ui`; without the JSON there is no experiment to name."""
    directory = _directory(tmp_path, replace(FINISHED, tracking_uri=uri))
    document = json.loads((directory / JSON_NAME).read_text())
    (directory / JSON_NAME).write_text(json.dumps(document | {"run": {"run_id": "abc", "experiment_id": "7"}}))
    server = "http://127.0.0.1:5000" if uri.startswith("sqlite") else uri
    lines = _lines(directory)

    assert lines["page"] == f"{server}/#/experiments/7/runs/abc?workflowType=machine_learning"
    assert lines.get("server") == (f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite") else None)
    (directory / JSON_NAME).unlink()
    assert "page" not in _lines(directory)


@pytest.mark.parametrize(
    "state",
    [
        replace(FINISHED, delivered_through_ms=1000),
        replace(FINISHED, ended=False),
        replace(FINISHED, artifacts=["plot.png"]),
        replace(FINISHED, set_aside={"samples/x_epoch_000000.png": "too large"}),
        replace(FINISHED, status="RUNNING", ended=False),
    ],
)
def test_whatever_waits_names_the_command_that_sends_it(state: DeliveryState, tmp_path: Path) -> None:
    """Rows, the end, files, what was set aside, an interrupted run."""
    assert "mlflow-ddpm sync " in _lines(_directory(tmp_path, state))["next"]


def test_what_was_set_aside_is_listed_with_its_reason_and_counts_as_no_waiting_picture(tmp_path: Path) -> None:
    """The first ten by name."""
    aside = {f"samples/x_epoch_{n:06d}.png": f"reason {n}" for n in range(12)}
    directory = _directory(tmp_path, replace(FINISHED, set_aside=aside))
    image_path(tmp_path, "x", 0).parent.mkdir()
    image_path(tmp_path, "x", 0).write_bytes(b"x")
    text = status_of(directory)

    assert "set aside samples/x_epoch_000009.png: reason 9" in text
    assert "set aside 2 further items" in text
    assert "1 on disk, 0 in MLflow, 0 waiting" in text


def test_a_directory_that_is_written_is_running_and_epochs_of_a_lost_csv_count(tmp_path: Path) -> None:
    """Looking changes nothing."""
    directory = _directory(tmp_path, replace(FINISHED, status="RUNNING", ended=False))
    interrupted = _lines(directory)["status"]
    (directory / CSV_NAME).unlink()
    before = sorted(path.name for path in directory.iterdir())
    lost = _lines(directory)["epochs"]
    after = sorted(path.name for path in directory.iterdir())
    mirror = Mirror(directory).open()

    assert interrupted == "interrupted: the process ended without reporting a status"
    assert lost == "3 on disk, 3 in MLflow, 0 waiting"
    assert before == after
    assert _lines(directory)["status"] == "RUNNING: a live process writes here"
    mirror.abandon()


@pytest.mark.parametrize("ended_at_ms", [10**30, -(10**30), 10**17])
def test_a_time_that_no_calendar_has_is_left_out(ended_at_ms: int, tmp_path: Path) -> None:
    """A directory may come from a stranger."""
    status = _lines(_directory(tmp_path, replace(FINISHED, ended_at_ms=ended_at_ms)))["status"]

    assert status == "FINISHED; MLflow has it"


def test_what_a_terminal_obeys_is_left_out(tmp_path: Path) -> None:
    """Nor can a name pretend to be a line of ours."""
    set_aside = {"a\n  next      nothing": "why\x1b[2J"}
    state = replace(FINISHED, run_name="\x1b]0;title\x07", tracking_uri="http://h\x9b31m", set_aside=set_aside)
    status = status_of(_directory(tmp_path, state))

    assert all(character.isprintable() or character == "\n" for character in status)
    assert "set aside a   next      nothing: why [2J" in status


def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    """One line each."""
    with pytest.raises(HistoryError, match="name one that a tracker wrote"):
        status_of(tmp_path)
    _directory(tmp_path, FINISHED)
    (tmp_path / CSV_NAME).unlink()
    (tmp_path / CSV_NAME).mkdir()
    with pytest.raises(MirrorError, match=r"cannot be read|is no"):
        status_of(tmp_path)
