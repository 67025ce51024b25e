"""What surrounds every call into MLflow: errors become ours, logs stay quiet, tables are made by one process.

MLflow creates and migrates the tables of a database at first use without a lock: two processes at once on a new sqlite
file crash, and can leave it unusable for good (measured; hydraflow issue 245).
"""

import configparser
import contextlib
import gc
import hashlib
import logging
import os
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from mlflow_ddpm.core.errors import (
    ItemRefusedError,
    MlflowDdpmError,
    NoArtifactsError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
    error_chain,
)
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.storage.fault_rules import RESTORE, SEND_CREDENTIALS, Fault
from mlflow_ddpm.storage.mlflow_faults import classify_fault
from mlflow_ddpm.storage.mlflow_requests import (
    ANSWER_SEC,
    bound_answers,
    bound_mlflow_waits,
    call_of_ours,
    in_time,
    store_called,
)

_log = logging.getLogger("mlflow_ddpm")
_WAIT_SEC = 120  # ten processes at 3-5 s each, on a busy disk
_CONNECT_SEC = 5.0
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433, "databricks": 443}
# They log each retry and each failed statement, with a traceback; an outage is reported once, by us.
_NOISY_LOGGERS = (
    "alembic.ddl.impl",
    "alembic.runtime.migration",
    "alembic.runtime.plugins",
    "databricks.sdk",
    "mlflow.exceptions",
    "mlflow.store.db.utils",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.utils.credentials",
    "mlflow.utils.databricks_utils",
    "mlflow.utils.rest_utils",
    "sqlalchemy.pool.impl.NullPool",
    "sqlalchemy.pool.impl.QueuePool",
    "urllib3.connectionpool",
    "urllib3.util.retry",
)
FROZEN_BY_PYTHON = 1000  # objects, at most: 375 in 3.12; a program that freezes its own has 5,000 and more
_freezing = threading.Lock()  # held while long_lived_objects_left_alone has objects frozen
_first_uses: set[str] = set()  # sqlite stores whose tables this process is making


@contextlib.contextmanager
def translate_mlflow_errors(tracking_uri: str, item: str = "", *, is_file: bool = False) -> Iterator[None]:
    """Re-raise what the body raises as the :class:`StoreError` that it means.

    ``item`` is what the body sends to the store: a file, a picture, a batch of values. With ``is_file`` it goes to the
    artifact store, whose refusals concern no row.
    """
    bound_mlflow_waits()
    bound_answers()
    for name in _NOISY_LOGGERS:
        logging.getLogger(name).addFilter(_is_of_user)  # a filter that is there already is not added again
    with call_of_ours(tracking_uri):
        try:
            _check_reachable(tracking_uri)
            yield
        except MlflowDdpmError:
            raise
        except Exception as error:
            if ours := next((link for link in error_chain(error) if isinstance(link, MlflowDdpmError)), None):
                raise ours from error
            open_sqlite_again(tracking_uri)
            raise _translated(classify_fault(error), redact(tracking_uri), item, is_file=is_file) from error


def _translated(fault: Fault, where: str, item: str, *, is_file: bool) -> StoreError:
    remedy = f"; {fault.remedy}" if fault.remedy else ""
    what, asks = redact(fault.cause.rstrip(".")) + remedy, fault.remedy in (SEND_CREDENTIALS, RESTORE)
    if fault.kind is StoreUnavailableError:
        return StoreUnavailableError(f"MLflow at {where} is unavailable: {what}")
    is_files = is_file and fault.kind in (StoreRefusedError, NoArtifactsError) and not asks
    if item and (fault.kind is ItemRefusedError or is_files):
        return ItemRefusedError(f"MLflow at {where} cannot take {item}: {what}")
    kind = fault.kind if issubclass(fault.kind, StoreRefusedError) else StoreRefusedError
    return kind(f"MLflow at {where} refused: {what}")


def open_sqlite_again(tracking_uri: str) -> None:
    """Close the connections that MLflow keeps: a file that was put back from a backup is another file."""
    if sqlite_file(tracking_uri):
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        engine = getattr(SqlAlchemyStore, "_engine_map", {}).get(tracking_uri)
        if engine is not None:
            engine.dispose()


def _check_reachable(tracking_uri: str) -> None:
    """Fail at once if nothing listens there: MLflow would try a database for 100 s, and Databricks for 300 s."""
    uri = _databricks_address(tracking_uri) if re.match("databricks(:|$)", tracking_uri) else tracking_uri
    scheme = urlsplit(uri).scheme.partition("+")[0] if "://" in uri else ""
    if scheme not in _PORTS:
        return
    address = urlsplit(uri)
    if address.hostname:
        with socket.create_connection((address.hostname, address.port or _PORTS[scheme]), _CONNECT_SEC):
            pass


def _databricks_address(tracking_uri: str) -> str:
    """Return the workspace's address; empty where Databricks is not set up, or a proxy leads to it."""
    profile = tracking_uri.partition("://")[2] or os.environ.get("DATABRICKS_CONFIG_PROFILE", "DEFAULT")
    config = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(OSError, ValueError, configparser.Error):  # the client names what is wrong with the file
        config.read(Path(os.environ.get("DATABRICKS_CONFIG_FILE", "~/.databrickscfg")).expanduser())
    host = config.get(profile, "host", fallback="") or os.environ.get("DATABRICKS_HOST", "")
    return "" if getproxies() else f"databricks://{host.rpartition('://')[2]}"


def client(tracking_uri: str) -> Any:
    """Return MLflow's client for a store; it makes no request by itself."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri)


def artifact_repository(tracking_uri: str, run_id: str) -> Any:
    """Return MLflow's access to a run's artifacts.

    The client's own listing would ask for logged models, too, which servers before 3.0 answer with 404. Raises
    StoreRefusedError where the store names a folder of this machine that is not the run's: it may be any.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

    address = client(tracking_uri).get_run(run_id).info.artifact_uri
    address = add_databricks_profile_info_to_artifact_uri(address, tracking_uri)
    if re.match(r"(runs|models):|https?:(?!.*/mlflow-artifacts/artifacts)", address):
        raise StoreRefusedError(
            f"MLflow at {redact(tracking_uri)} names {redact(address)} for the artifacts of run {run_id}, which is no "
            "address of a server's artifacts; correct the experiment's artifact location"
        )
    repository = in_time(ANSWER_SEC, lambda: get_artifact_repository(address, tracking_uri=tracking_uri))
    folder = getattr(repository, "artifact_dir", None)  # of a store on this machine
    if folder is not None and Path(folder).parts[-2:] != (run_id, "artifacts"):
        raise StoreRefusedError(
            f"MLflow at {redact(tracking_uri)} names {folder or 'no folder'} for the artifacts of run {run_id}; "
            f"expected a folder {run_id}/artifacts, and nothing else on this machine is read or written"
        )
    return repository


def _is_of_user(_: logging.LogRecord) -> bool:
    """Drop records of threads that are in a call of ours."""
    return store_called() is None


@contextlib.contextmanager
def default_store(tracking_uri: str) -> Iterator[None]:
    """Make a store MLflow's default inside ``with``: what concerns logged models takes it from nowhere else."""
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.tracking.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)


@contextlib.contextmanager
def long_lived_objects_left_alone() -> Iterator[None]:
    """Spare the garbage collector what is there already.

    It takes a third of the time of sending rows, and half of that of reading them: MLflow makes a hundred objects for
    each point, so the collector would look at all modules again and again.
    """
    if not _freezing.acquire(blocking=False):  # a caller or another thread does so; counting would take 35 ms
        yield
        return
    try:
        if gc.get_freeze_count() > FROZEN_BY_PYTHON:  # the user's program does so itself
            yield
            return
        gc.freeze()
        try:
            yield
        finally:
            gc.unfreeze()
    finally:
        _freezing.release()


def sqlite_file(tracking_uri: str) -> Path | None:
    """Return the file of a sqlite store; None for every other store."""
    if not tracking_uri.startswith("sqlite:///") or ":memory:" in tracking_uri:
        return None
    name = tracking_uri.removeprefix("sqlite:///").removeprefix("file:")
    return Path(name.partition("?")[0])  # "?timeout=5" is for the driver


def is_first_use(tracking_uri: str) -> bool:
    """Return whether this process is making the tables of a new sqlite store just now: slow, but no outage."""
    return tracking_uri in _first_uses


@contextlib.contextmanager
def exclusive_migration(tracking_uri: str) -> Iterator[None]:
    """Hold a lock while the body runs, if the URI is a sqlite file's; raise OSError after two minutes without it."""
    path = sqlite_file(tracking_uri)
    if path is None:
        yield
        return
    with host_lock(tracking_uri):
        if not path.exists() or path.stat().st_size == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()  # MLflow would try for minutes where this fails
            _log.info("making a new MLflow database, %s; this takes some seconds, once", path)
            _first_uses.add(tracking_uri)
        try:
            yield
        finally:
            _first_uses.discard(tracking_uri)


@contextlib.contextmanager
def host_lock(name: str) -> Iterator[None]:
    """Hold a lock that this user's processes on this host share, while the body runs.

    The lock is a file in the system's temporary directory, so that none lies beside the user's database. Raises
    OSError where it could not be had within two minutes.
    """
    from filelock import FileLock

    key = hashlib.sha256(name.encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else 0
    with FileLock(Path(tempfile.gettempdir()) / f"mlflow_ddpm-{user}-{key}.lock", timeout=_WAIT_SEC):
        yield
