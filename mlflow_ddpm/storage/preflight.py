"""Whether a tracking store would take a run, asked without making one."""

from __future__ import annotations

import os
from pathlib import Path

from mlflow_ddpm.core.errors import StoreRefusedError
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.storage.mlflow_call import translate_mlflow_errors
from mlflow_ddpm.storage.mlflow_run import client
from mlflow_ddpm.storage.run_target import RunTarget, resolve_run_target
from mlflow_ddpm.storage.sqlite_init import exclusive_migration

__all__ = ["preflight_store"]


def preflight_store(*, tracking_uri: str | None = None, experiment_name: str | None = None) -> str:
    """Return in words where a new run would go. Only reads; the right to write shows when something is written.

    Raises:
        StoreUnavailableError: the store is away.
        StoreRefusedError: it would refuse the run: its experiment is deleted, the run asked for is not there, or its
            database can be neither made nor written.
    """
    wish = resolve_run_target(RunTarget(tracking_uri or "", experiment_name=experiment_name))
    uri, where = wish.tracking_uri, redact(wish.tracking_uri)
    if uri.startswith("sqlite:////") and not _is_database(_path_of(uri)):
        return f"{where}, which will be made"  # to open it would make it
    with translate_mlflow_errors(uri), exclusive_migration(uri):
        mlflow = client(uri)
        if wish.run_id:
            return f"{where}: run {mlflow.get_run(wish.run_id).info.run_name}"
        identifier, name = os.environ.get("MLFLOW_EXPERIMENT_ID"), os.environ.get("MLFLOW_EXPERIMENT_NAME")
        name = experiment_name or (None if identifier else name)
        found = mlflow.get_experiment_by_name(name) if name else mlflow.get_experiment(identifier or "0")
    if found is None:
        return f"{where}: experiment {name}, which will be made"
    if found.lifecycle_stage != "active":
        raise StoreRefusedError(
            f"experiment {found.name} in {where} is deleted; restore it with `mlflow experiments restore -x "
            f"{found.experiment_id}`, or name another with --experiment-name"
        )
    return f"{where}: experiment {found.name}"


def _path_of(sqlite_uri: str) -> Path:
    return Path(sqlite_uri.removeprefix("sqlite:///").partition("?")[0])  # "?timeout=5" is for the driver


def _is_database(path: Path) -> bool:
    """Say whether a sqlite file is there; one that is not, or is empty, must be possible to make.

    Raises:
        StoreRefusedError: it can be neither made nor written.
    """
    there = path.exists() and path.stat().st_size > 0
    needed = [path.parent, *([path] if path.exists() else [])]
    for one in needed:
        if not os.access(one, os.W_OK):
            raise StoreRefusedError(
                f"{one} cannot be written; make it writable, or name another store with --tracking-uri"
            )
    return there
