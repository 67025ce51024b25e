"""The log of an outage: one line for it, one for each further cause, one when it is over."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mlflow_ddpm.core.errors import RunMissingError, StoreUnavailableError
from mlflow_ddpm.tracking.outage import OutageLog, Unsent, advice, warn_unsent

AWAY = StoreUnavailableError("MLflow at http://host is unavailable: no answer in time")


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_outage_is_logged_once_whatever_number_of_times_the_store_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    """Messages that differ in ports and ids alone are one cause; another cause is one line more."""
    log = OutageLog("rows", lambda _: "Training continues.")
    for port in (5000, 5001, 5002):
        log.failed(StoreUnavailableError(f"port {port} refuses"))
    log.failed(AWAY)
    log.recovered()
    log.recovered()

    assert _lines(caplog) == [
        "port 5000 refuses. Training continues.",
        f"{AWAY}: rows still wait for MLflow, now for this reason",
        "MLflow is back; all rows that waited have been sent",
    ]


def test_an_outage_that_another_lane_has_logged_is_not_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is its end; nor anything where the caller reports by itself."""
    covered = OutageLog("files", lambda _: "", is_covered=lambda _, failures: failures < 3)
    covered.failed(AWAY, failures=1)
    covered.recovered()
    OutageLog("rows", advice=None).failed(AWAY)

    assert _lines(caplog) == []


def test_the_advice_names_the_command_for_the_kind_of_fault() -> None:
    """What an outage keeps back is synced; a run that is gone is made anew."""
    uri = "sqlite:///mlflow.db"

    assert advice(AWAY, Path("out"), uri).endswith("after the run, `mlflow-ddpm sync out` sends it")
    missing = advice(RunMissingError("no run"), Path("out"), uri)
    assert missing.endswith(f"`mlflow-ddpm sync out --tracking-uri {uri}` makes the run anew in that store")


@pytest.mark.parametrize(
    ("unsent", "expected"),
    [
        (
            Unsent(rows=2, files=1, set_aside=0, is_ended=False),
            "not in MLflow yet: 2 rows and 1 file; everything is in",
        ),
        (Unsent(rows=0, files=0, set_aside=0, is_ended=False), "not in MLflow yet: the end of the run; everything"),
        (Unsent(rows=0, files=0, set_aside=3, is_ended=True), "MLflow does not have 3 items, set aside; `mlflow-ddpm"),
    ],
)
def test_the_last_line_names_what_mlflow_does_not_have(
    unsent: Unsent, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And where it is."""
    warn_unsent(unsent, None, Path("out"), "sqlite:///mlflow.db", is_on_disk=True)

    (line,) = _lines(caplog)
    assert line.startswith(expected)
