"""Find a run in a tracking store: by its id, the first letters of its id, its model, or as the newest."""

import re
from pathlib import Path
from typing import Any

from mlflow_ddpm.core.errors import HistoryError, RunMissingError, UsageError
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.storage.layout import MODEL_FOLDER
from mlflow_ddpm.storage.mlflow_call import client, exclusive_migration, translate_mlflow_errors
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.storage.store_address import absolute_uri

_ID = "[A-Za-z0-9_\\-]{8,64}|[0-9a-f]{4,7}"  # MLflow's own: 32 hex digits
_RUN_ID = re.compile(rf"(?P<id>{_ID})|runs:/+(?P<of_uri>{_ID})(/+{MODEL_FOLDER})?/*")
_PREFIX = re.compile(r"[0-9a-f]{4,31}")
_MAX_EXPERIMENTS = 1000


def run_id_of(source: str | Path) -> str | None:
    """Return the run id in a name: plain, ``runs:/<id>`` or ``runs:/<id>/model``; None if the name cannot be one."""
    match = None if isinstance(source, Path) else _RUN_ID.fullmatch(source)
    return match["id"] or match["of_uri"] if match else None


def open_store(run_id: str, tracking_uri: str | None = None) -> MlflowRun:
    """Return a run by its id; the store is MLflow's configured one unless named. No request is made."""
    return MlflowRun(_store_uri(tracking_uri), run_id)


def find_run(source: str | Path, tracking_uri: str | None = None) -> MlflowRun:
    """Return the run with this id, the only one whose id begins with these letters (four or more), or that of a model.

    A model is named by its ``models:/`` URI. No request is made for a whole id. Raises HistoryError for what is neither
    a file nor a run id, and for a model of no run; UsageError or RunMissingError where several runs or none begin so.
    """
    if isinstance(source, str) and source.startswith("models:/"):
        return _run_of_model(source, _store_uri(tracking_uri))
    run_id = run_id_of(source)
    if run_id is None:
        raise HistoryError(f"no such file or directory: {source}; expected a run id, an output directory, CSV or JSON")
    store = open_store(run_id, tracking_uri)
    if _PREFIX.fullmatch(run_id):
        return MlflowRun(store.tracking_uri, _complete(run_id, store.tracking_uri))
    return store


def newest_run(tracking_uri: str | None = None) -> MlflowRun:
    """Return the newest run that has epochs of this package, or raise HistoryError."""
    uri = _store_uri(tracking_uri)
    runs = _search(uri, "metrics.epoch_time_sec >= 0", at_most=1)
    if not runs:
        raise HistoryError(f"no run of mlflow_ddpm in MLflow at {redact(uri)}; name another store with --tracking-uri")
    return MlflowRun(uri, runs[0].info.run_id)


def child_runs(parent: MlflowRun, *, at_most: int) -> list[MlflowRun]:
    """Return the runs below a parent, oldest first; raise UsageError for more than ``at_most``."""
    runs = _search(parent.tracking_uri, f"tags.`mlflow.parentRunId` = '{parent.run_id}'", at_most=at_most + 1)
    if len(runs) > at_most:
        raise UsageError(f"run {parent.run_id} has more than {at_most} child runs; name those to compare")
    return [MlflowRun(parent.tracking_uri, run.info.run_id) for run in reversed(runs)]


def _store_uri(tracking_uri: str | None) -> str:
    import mlflow

    return absolute_uri(tracking_uri or mlflow.get_tracking_uri())


def _run_of_model(model_uri: str, tracking_uri: str) -> MlflowRun:
    """Return the run of a logged or registered model."""
    from mlflow.store.artifact.utils.models import get_model_name_and_version

    with translate_mlflow_errors(tracking_uri), exclusive_migration(tracking_uri):
        mlflow = client(tracking_uri)
        name, *version = get_model_name_and_version(mlflow, model_uri)
        run_id = (
            mlflow.get_model_version(name, *version).run_id if version else mlflow.get_logged_model(name).source_run_id
        )
    if not run_id:
        raise HistoryError(f"{model_uri} is of no run; expected a run id, an output directory, CSV or JSON")
    return MlflowRun(tracking_uri, run_id)


def _complete(prefix: str, tracking_uri: str) -> str:
    """Return the only run id with this prefix."""
    runs = _search(tracking_uri, f"attributes.run_id LIKE '{prefix}%'", at_most=2)
    matches = [run.info.run_id for run in runs if run.info.run_id.startswith(prefix)]
    if len(matches) > 1:
        raise UsageError(f"several runs begin with {prefix}, such as {' and '.join(matches)}; give more letters")
    if not matches:
        raise RunMissingError(f"MLflow at {redact(tracking_uri)} has no run whose id is, or begins with, {prefix}")
    return str(matches[0])


def _search(tracking_uri: str, condition: str, *, at_most: int) -> list[Any]:
    """Return runs of all experiments that are not deleted, newest first."""
    with translate_mlflow_errors(tracking_uri), exclusive_migration(tracking_uri):
        mlflow = client(tracking_uri)
        experiments = [e.experiment_id for e in mlflow.search_experiments(max_results=_MAX_EXPERIMENTS)]
        newest_first = ["attributes.start_time DESC"]
        return list(mlflow.search_runs(experiments, condition, max_results=at_most, order_by=newest_first))
