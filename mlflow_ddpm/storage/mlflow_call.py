"""The line between an outage and a mistake, drawn around every call into MLflow; either becomes one clear line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from mlflow_ddpm.core.errors import RunMissingError, StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.core.redaction import redact

__all__ = ["translate_mlflow_errors"]

# Answers that the same call will get again. Everything else (5xx, time-outs, locked or full databases) may pass.
_REFUSALS = frozenset(
    {
        "BAD_REQUEST",
        "CUSTOMER_UNAUTHORIZED",
        "ENDPOINT_NOT_FOUND",
        "INVALID_PARAMETER_VALUE",
        "NOT_FOUND",
        "NOT_IMPLEMENTED",
        "PERMISSION_DENIED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)


@contextlib.contextmanager
def translate_mlflow_errors(tracking_uri: str) -> Iterator[None]:
    """Tell an outage from a mistake, and make one line of either."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        where, first = redact(tracking_uri), redact(_first_line(error))
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise RunMissingError(f"MLflow at {where} refused: {first}") from error
        if error.error_code in _REFUSALS:
            raise StoreRefusedError(
                f"MLflow at {where} refused: {first.rstrip('.')}.{_remedy(error, first)}"
            ) from error
        raise StoreUnavailableError(f"MLflow at {where} is unavailable: {first}") from error
    except (OSError, ImportError) as error:  # requests' exceptions are OSErrors
        raise StoreUnavailableError(f"MLflow at {redact(tracking_uri)} is unavailable: {redact(str(error))}") from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("sqlalchemy", "alembic", "sqlite3", "urllib3"):
            raise
        first = redact(_first_line(error))
        raise StoreUnavailableError(f"MLflow at {redact(tracking_uri)} is unavailable: {first}") from error


def _first_line(error: BaseException) -> str:
    """Return what went wrong without the layers of HTTP libraries around it."""
    text = str(error).strip()
    cause = re.search(r"\[Errno -?\d+\] ([^'\"()]+)|(Read timed out|ConnectTimeoutError)", text)
    if "Max retries exceeded" in text and cause:
        return (cause[1] or "no answer in time").strip().lower()
    return text.splitlines()[0] if text else type(error).__name__


def _remedy(error: Any, message: str) -> str:
    if "maintenance mode" in message or "file store" in message.lower():
        return (
            " A ./mlruns folder with data in it makes MLflow choose its file store: set MLFLOW_ALLOW_FILE_STORE=true "
            "to use it, or MLFLOW_TRACKING_URI=sqlite:///mlflow.db to use a database"
        )
    if error.error_code in ("CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"):
        return (
            " Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN: credentials in a "
            "tracking URI are not kept on disk"
        )
    if "'active' state" in message or "deleted state" in message:
        return (
            " It was deleted: restore it (in the UI, or with `mlflow runs restore --run-id ID` or `mlflow experiments "
            "restore -x ID`)"
        )
    return ""
