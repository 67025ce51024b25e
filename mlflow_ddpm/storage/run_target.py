"""Which MLflow run a tracker writes to: the one asked for, the active one, a child of a taken one, or a new one."""

import importlib
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from mlflow_ddpm.core.errors import StoreRefusedError, StoreUnavailableError, UsageError
from mlflow_ddpm.core.redaction import redact, redacted
from mlflow_ddpm.storage.mlflow_call import (
    client,
    exclusive_migration,
    host_lock,
    sqlite_file,
    translate_mlflow_errors,
)
from mlflow_ddpm.storage.mlflow_requests import import_apart
from mlflow_ddpm.storage.mlflow_run import MlflowRun, clean_tags, clean_text
from mlflow_ddpm.storage.store_address import absolute_uri, configured_store, is_same_store
from mlflow_ddpm.storage.stored_rows import FIRST_ROWS_TAG, NO_ROW_YET, ROW_MARK

# The tag names the tracker that writes to a run. It finds a run whose creation response was lost, and keeps a second
# tracker out of a run that is taken. MLflow's pages hide tags that begin with "mlflow.".
RUN_KEY = "mlflow.mlflow_ddpm.run_key"
_PARENT = "mlflow.parentRunId"
_ERROR_TAGS = ("error.type", "error.message")  # why an earlier part of the run ended
_NAME_MAX = 250  # characters of a run's name in MLflow's tables
_log = logging.getLogger("mlflow_ddpm")


class RunTarget(NamedTuple):
    """Which run is meant: an existing one by ``run_id``, or a new one."""

    tracking_uri: str
    run_id: str | None = None
    run_name: str | None = None
    experiment_name: str | None = None
    run_key: str = ""  # of the tracker; empty: take the run whoever writes to it
    is_own: bool = False  # the directory wrote to this run before: it is the tracker's, whatever the run's tag

    def without_credentials(self, hidden: Sequence[str]) -> Self:
        """Return the target with names that hold no credentials; raise UsageError where a name or the id is no string.

        ``hidden`` are texts that were taken for credentials elsewhere.
        """
        for field, value in zip(("run_id", "run_name", "experiment_name"), self[1:4], strict=True):
            if not isinstance(value, str | None):
                raise UsageError(f"{field} must be a string, got {value!r}")
        return self._replace(
            run_name=self.run_name and redact(self.run_name, hidden),
            experiment_name=self.experiment_name and redact(self.experiment_name, hidden),
        )


def resolve_run_target(target: RunTarget | None = None) -> RunTarget:
    """Fill in what was not asked for, from MLflow's own settings; must run on the caller's thread, makes no request.

    Order: what the target names; the active run; ``MLFLOW_RUN_ID``; a new run. An active run and ``MLFLOW_RUN_ID``
    belong to MLflow's configured store, and count only if that is the store asked for.
    """
    import_apart(partial(importlib.import_module, "mlflow"))
    import mlflow

    configured = configured_store()
    uri = absolute_uri((target and target.tracking_uri) or configured)
    if redact(uri) != uri:  # MLflow prints the address, password included, when the user's code or a logger ends a run
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    target = (target or RunTarget(uri))._replace(tracking_uri=uri)
    if target.run_id or not is_same_store(uri, configured):
        return target
    active = mlflow.active_run()
    if active is not None:
        return target._replace(run_id=active.info.run_id)
    return target._replace(run_id=os.environ.get("MLFLOW_RUN_ID", "").strip() or None)


def open_run(target: RunTarget, *, started_at_ms: int, tags: Mapping[str, str]) -> tuple[MlflowRun, bool]:
    """Return the run that is meant, and whether it was created here: a new one, or a child of one that is taken."""
    uri = target.tracking_uri
    with translate_mlflow_errors(uri), exclusive_migration(uri):
        mlflow = client(uri)
        if not target.run_id:
            experiment_id = _experiment_id(mlflow, target.experiment_name)
            return _create_run(mlflow, target, experiment_id, started_at_ms, tags), True
        with host_lock(f"{redact(uri)} {target.run_id}"):  # of two that come at once, the second sees the first
            run = mlflow.get_run(target.run_id)
            if _is_taken(run, target):
                return _create_child(mlflow, target, run, started_at_ms, tags), True
            _take(mlflow, target, run)
    return MlflowRun(uri, target.run_id), False


def _is_taken(run: Any, target: RunTarget) -> bool:
    """Return whether another tracker writes to the run."""
    return bool(target.run_key) and not target.is_own and run.data.tags.get(RUN_KEY, target.run_key) != target.run_key


def _take(mlflow: Any, target: RunTarget, run: Any) -> None:
    """Mark the run as this tracker's, and log which wishes it cannot have."""
    if not target.run_key:
        return
    for key in _ERROR_TAGS:
        if key in run.data.tags:
            mlflow.delete_tag(run.info.run_id, key)
    if run.data.tags.get(RUN_KEY) == target.run_key:
        return
    mlflow.set_tag(run.info.run_id, RUN_KEY, target.run_key)
    if ROW_MARK not in run.data.metrics and FIRST_ROWS_TAG not in run.data.tags:
        mlflow.set_tag(run.info.run_id, FIRST_ROWS_TAG, NO_ROW_YET)
    if target.run_name not in (None, run.info.run_name):
        _log_unused("run_name", target.run_name, run, run.info.run_name)
    if target.experiment_name is not None:
        experiment = mlflow.get_experiment(run.info.experiment_id).name
        if experiment != target.experiment_name:
            _log_unused("experiment_name", target.experiment_name, run, experiment)


def _log_unused(name: str, wanted: str | None, run: Any, actual: str) -> None:
    where = f"run {run.info.run_id}, which was there before"
    _log.warning("%s=%r has no effect: the tracker writes to %s (%r)", name, wanted, where, actual)


def _create_child(
    mlflow: Any, target: RunTarget, parent: Any, started_at_ms: int, tags: Mapping[str, str]
) -> MlflowRun:
    """Create a run below one that another tracker writes to, in the same experiment."""
    name = target.run_name or tags.get("mlflow_ddpm.output_dir")
    tags = {**tags, _PARENT: parent.info.run_id}
    child = _create_run(mlflow, target._replace(run_name=name), parent.info.experiment_id, started_at_ms, tags)
    _log.warning(
        "another tracker writes to run %s; this one writes to a child run of its own, %s (%s)",
        *(parent.info.run_id, child.run_id, name),
    )
    experiment = target.experiment_name
    if experiment is not None and mlflow.get_experiment(parent.info.experiment_id).name != experiment:
        _log.warning("experiment_name=%r has no effect: a child run is in its parent's experiment", experiment)
    return child


def _create_run(
    mlflow: Any, target: RunTarget, experiment_id: str, started_at_ms: int, tags: Mapping[str, str]
) -> MlflowRun:
    """Create a run, or take one of the same key that an earlier try made and whose response was lost."""
    name = target.run_name and clean_text(target.run_name)[:_NAME_MAX]
    key = {RUN_KEY: target.run_key} if target.run_key else {}  # first: file stores write tags one by one, until a kill
    same = f"tags.`{RUN_KEY}` = '{target.run_key}'"
    found = mlflow.search_runs([experiment_id], same, max_results=1) if key else []
    tags = {**key, FIRST_ROWS_TAG: NO_ROW_YET, **tags}
    run = found[0] if found else mlflow.create_run(experiment_id, start_time=started_at_ms, tags=tags, run_name=name)
    if not run.info.run_id:
        where = redact(target.tracking_uri)
        raise StoreUnavailableError(f"{where} did not respond like an MLflow server; check the tracking URI")
    return MlflowRun(target.tracking_uri, run.info.run_id)


def context_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return these tags and MLflow's own for a new run: user, script, git commit, and the git remote, redacted."""
    from mlflow.tracking.context.registry import resolve_tags

    return clean_tags(redacted(resolve_tags(dict(tags))).value)


def _experiment_id(mlflow: Any, name: str | None) -> str:
    if name is None and os.environ.get("MLFLOW_EXPERIMENT_ID"):  # mlflow.set_experiment sets it, too
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = clean_text(name or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "")
    if not name:
        return "0"
    experiment = mlflow.get_experiment_by_name(name) or _create_experiment(mlflow, name)
    return str(experiment.experiment_id)


def _create_experiment(mlflow: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.get_experiment(mlflow.create_experiment(name))
    except MlflowException as error:  # another process may have created it since
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return mlflow.get_experiment_by_name(name)


def preflight_store(*, tracking_uri: str | None = None, experiment_name: str | None = None) -> str:
    """Describe where a new run would go. Only reads; the right to write shows when something is written.

    Raises StoreUnavailableError where the store is away; StoreRefusedError where it would refuse the run: its
    experiment is deleted, the run asked for is not there, or its database can be neither made nor written.
    """
    target = resolve_run_target(RunTarget(tracking_uri or "", experiment_name=experiment_name))
    uri, where = target.tracking_uri, redact(target.tracking_uri)
    database = sqlite_file(uri)
    if database and not _is_database(database):
        return f"{where}, which will be made"  # to open it would make it
    with translate_mlflow_errors(uri), exclusive_migration(uri):
        mlflow = client(uri)
        if target.run_id:
            return f"{where}: run {mlflow.get_run(target.run_id).info.run_name}"
        identifier, name = os.environ.get("MLFLOW_EXPERIMENT_ID"), os.environ.get("MLFLOW_EXPERIMENT_NAME")
        name = experiment_name or (None if identifier else name)
        experiment = mlflow.get_experiment_by_name(name) if name else mlflow.get_experiment(identifier or "0")
    if experiment is None:
        return f"{where}: experiment {name}, which will be made"
    if experiment.lifecycle_stage != "active":
        raise StoreRefusedError(
            f"experiment {experiment.name} in {where} is deleted; restore it with `mlflow experiments restore -x "
            f"{experiment.experiment_id}`, or name another with --experiment-name"
        )
    return f"{where}: experiment {experiment.name}"


def _is_database(path: Path) -> bool:
    """Return whether a sqlite file has content; raise StoreRefusedError if it can be neither made nor written."""
    if path.parent.exists() and not path.parent.is_dir():
        raise StoreRefusedError(f"{path.parent} is a file, no directory; name another store with --tracking-uri")
    for needed in (path.parent, *([path] if path.exists() else [])):
        if not os.access(needed, os.W_OK):
            raise StoreRefusedError(
                f"{needed} cannot be written; make it writable, or name another store with --tracking-uri"
            )
    return path.exists() and path.stat().st_size > 0
