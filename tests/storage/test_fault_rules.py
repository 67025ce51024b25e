"""The rows of the fault table: every code is one of MLflow's, every pattern matches what programs really say."""

from __future__ import annotations

import re

import pytest

from mlflow_ddpm.storage.fault_rules import (
    DATABASE_TEXTS,
    HTTP_STATUS,
    ITEM_CODES,
    KNOWN_TEXTS,
    OF_ITEM,
    PASSING,
    PASSING_STATUS,
    PERMANENT,
    PERMANENT_CODES,
)

SAID = {
    "(sqlite3.OperationalError) database is locked": PASSING,
    "(1213, 'Deadlock found when trying to get lock; try restarting transaction')": PASSING,
    "could not extend file: No space left on device": PASSING,
    "attempt to write a readonly database": PERMANENT,
    "file is not a database": PERMANENT,
    "Can't locate revision identified by 'deadbeef'": PERMANENT,
    "Detected out-of-date database schema (found version 1a2b, but expected 3c4d)": PERMANENT,
    "no such table: experiments": PERMANENT,
    'relation "experiments" does not exist': PERMANENT,
    'password authentication failed for user "mlflow"': PERMANENT,
    'database "mlflow" does not exist': PERMANENT,
    "permission denied for table runs": PERMANENT,
}


@pytest.mark.parametrize("text", SAID)
def test_what_databases_say_has_a_cause_of_its_kind(text: str) -> None:
    """The first row that matches counts; its message has a place for nothing but what the pattern found."""
    hits = ((re.search(row[0], text, re.IGNORECASE), row) for row in DATABASE_TEXTS)
    match, (_, fault) = next((match, row) for match, row in hits if match)

    detail = next(filter(None, match.groupdict().values()), "")
    assert fault.kind is SAID[text]
    assert "{" not in fault.cause.format(detail=detail)
    assert fault.remedy or fault.kind is PASSING


def test_every_code_is_one_of_mlflows_and_has_one_meaning() -> None:
    """A code that MLflow does not know would never be met."""
    from mlflow.protos import databricks_pb2

    assert set(databricks_pb2.ErrorCode.keys()) >= PERMANENT_CODES | ITEM_CODES
    assert not PERMANENT_CODES & ITEM_CODES


def test_statuses_are_those_of_http_and_patterns_are_sound() -> None:
    """Each is an error; every text of MLflow has a cause and a remedy."""
    assert all(400 <= status < 600 for status in HTTP_STATUS)
    assert all(400 <= status < 500 for status in PASSING_STATUS)
    assert all(re.compile(pattern) and cause and remedy for pattern, cause, remedy in KNOWN_TEXTS)
    assert {fault.kind for _, fault in DATABASE_TEXTS} <= {PASSING, PERMANENT, OF_ITEM}
