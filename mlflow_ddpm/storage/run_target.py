"""Which MLflow run a tracker writes to: the one asked for, the active one, or a new one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_ddpm.core.errors import StoreUnavailableError
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.storage.mlflow_call import translate_mlflow_errors
from mlflow_ddpm.storage.mlflow_run import MlflowRun, clean_tags, client
from mlflow_ddpm.storage.sqlite_init import exclusive_migration

__all__ = ["RUN_KEY", "RunTarget", "absolute_uri", "context_tags", "open_run", "resolve_run_target"]


class RunTarget(NamedTuple):
    """Which run is meant: an existing one by ``run_id``, or a new one."""

    tracking_uri: str
    run_id: str | None = None
    run_name: str | None = None
    experiment_name: str | None = None
    run_key: str = ""  # a new run bears it as a tag, and is found by it if nobody heard that it was made


RUN_KEY = "mlflow_ddpm.run_key"


def resolve_run_target(wish: RunTarget | None = None, *, tracking_uri: str | None = None) -> RunTarget:
    """Fill in what was not asked for, from MLflow's own settings; must run on the caller's thread, makes no request.

    Order: what the wish names; the active run; ``MLFLOW_RUN_ID``; a new run.
    """
    import mlflow

    uri = absolute_uri(tracking_uri or (wish.tracking_uri if wish else "") or mlflow.get_tracking_uri())
    wish = (wish or RunTarget(uri))._replace(tracking_uri=uri)
    if wish.run_id:
        return wish
    active = mlflow.active_run()
    if active is not None:
        return wish._replace(run_id=active.info.run_id)
    return wish._replace(run_id=os.environ.get("MLFLOW_RUN_ID") or None)


def absolute_uri(uri: str) -> str:
    """Return the URI with relative sqlite and file paths resolved now, before anybody changes directory."""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////") and ":memory:" not in uri:
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).resolve()}"
    if "://" not in uri and uri != "databricks" and not uri.startswith("file:"):
        return Path(uri).resolve().as_uri()
    return uri


def open_run(wish: RunTarget, *, started_at_ms: int, tags: Mapping[str, str]) -> tuple[MlflowRun, bool]:
    """Return the store of the wished run, and whether it was created here.

    Raises:
        StoreUnavailableError: the store is away; try again later.
        StoreRefusedError: there is no such run or experiment, or MLflow will not use this store.
    """
    if wish.run_id:
        with translate_mlflow_errors(wish.tracking_uri), exclusive_migration(wish.tracking_uri):
            client(wish.tracking_uri).get_run(wish.run_id)
        return MlflowRun(wish.tracking_uri, wish.run_id), False
    return _create_run(wish, started_at_ms=started_at_ms, tags=tags), True


def _create_run(wish: RunTarget, *, started_at_ms: int, tags: Mapping[str, str]) -> MlflowRun:
    """Create a run in the wished experiment, or in the one that MLflow's settings name. Raises as :func:`open_run`.

    One of the same key that an earlier try made is taken instead: its answer, or the process, may have got lost.
    """
    with translate_mlflow_errors(wish.tracking_uri), exclusive_migration(wish.tracking_uri):
        mlflow = client(wish.tracking_uri)
        experiment_id = _experiment_id(mlflow, wish.experiment_name)
        key = {RUN_KEY: wish.run_key} if wish.run_key else {}  # first: file stores write tags one by one, until a kill
        run = _find_by_key(mlflow, experiment_id, wish.run_key) or mlflow.create_run(
            experiment_id, start_time=started_at_ms, tags={**key, **tags}, run_name=wish.run_name
        )
    if not run.info.run_id:
        raise StoreUnavailableError(f"{redact(wish.tracking_uri)} answered, but not as MLflow does; is it its URI?")
    return MlflowRun(wish.tracking_uri, run.info.run_id)


def _find_by_key(mlflow: Any, experiment_id: str, run_key: str) -> Any:
    found = mlflow.search_runs([experiment_id], f"tags.`{RUN_KEY}` = '{run_key}'", max_results=1) if run_key else []
    return found[0] if found else None


def context_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return these tags and MLflow's own for a new run: user, script, git commit."""
    from mlflow.tracking.context.registry import resolve_tags

    return clean_tags(resolve_tags(dict(tags)))


def _experiment_id(mlflow: Any, name: str | None) -> str:
    if name is None and os.environ.get("MLFLOW_EXPERIMENT_ID"):  # mlflow.set_experiment sets it, too
        return os.environ["MLFLOW_EXPERIMENT_ID"]
    name = name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if name is None:
        return "0"
    experiment = mlflow.get_experiment_by_name(name) or _create_experiment(mlflow, name)
    return str(experiment.experiment_id)


def _create_experiment(mlflow: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return mlflow.get_experiment(mlflow.create_experiment(name))
    except MlflowException as error:  # another process may have created it since it was asked for
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return mlflow.get_experiment_by_name(name)
