"""What an exception below a call into MLflow means: retry, refuse, or set one item aside."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes
from urllib3.exceptions import DecodeError, ProtocolError

from mlflow_ddpm.core.errors import RunMissingError, error_chain
from mlflow_ddpm.storage.fault_rules import OF_ITEM, PASSING, PERMANENT
from mlflow_ddpm.storage.mlflow_faults import classify_fault

CASES: list[tuple[Exception, type[Exception]]] = [
    (TimeoutError("timed out"), PASSING),
    (socket.gaierror(-2, "Name or service not known"), PASSING),
    (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), PASSING),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), PASSING),
    (PermissionError(errno.EACCES, "Permission denied", "mlruns"), PERMANENT),
    (ModuleNotFoundError("No module named 'boto3'", name="boto3"), PERMANENT),
    (ValueError("cannot convert"), OF_ITEM),
    (MlflowException("Run 'abc' not found", codes.RESOURCE_DOES_NOT_EXIST), RunMissingError),
    (MlflowException("Param value is too long", codes.INVALID_PARAMETER_VALUE), OF_ITEM),
    (MlflowException("no right", codes.PERMISSION_DENIED), PERMANENT),
    (MlflowException("oops", codes.INTERNAL_ERROR), PASSING),
]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=[repr(error)[:50] for error, _ in CASES])
def test_the_kind_of_a_fault(error: Exception, kind: type[Exception]) -> None:
    """Whatever the library, and however deep below MLflow's own exception it lies."""
    outer = MlflowException("API request failed")
    outer.__cause__ = error

    assert classify_fault(error).kind is kind
    if isinstance(error, TimeoutError | socket.gaierror | ConnectionError | ImportError):
        assert classify_fault(outer).kind is kind


def test_a_missing_package_is_named_as_pip_knows_it() -> None:
    """The remedy can be pasted."""
    assert classify_fault(ImportError("No module", name="google.cloud")).remedy == "pip install google-cloud-storage"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (ProtocolError("Connection broken: IncompleteRead(0 bytes read)"), "the connection broke off"),
        (DecodeError("Received response with content-encoding: gzip"), "the answer is damaged: it cannot be unpacked"),
    ],
)
def test_what_urllib3_raises_is_named_by_what_happened(error: Exception, cause: str) -> None:
    """A file is read without the requests library between."""
    assert classify_fault(error).cause == cause


def test_a_chain_that_is_a_circle_ends() -> None:
    """Libraries raise the same object again."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first

    assert list(error_chain(first)) == [first, second]
