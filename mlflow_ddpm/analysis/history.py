"""Read a run's history, whatever it is named by: a tracker, a run id, a directory, a file or a frame.

This is the edge: sources are checked here, and everything downstream takes the :class:`RunHistory`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.errors import HistoryError, MirrorError, StoreError, UsageError
from mlflow_ddpm.core.formatting import display_path
from mlflow_ddpm.core.metrics import EpochMetrics, keep_last_written
from mlflow_ddpm.storage.artifacts import fetched_file
from mlflow_ddpm.storage.csv_file import read_csv
from mlflow_ddpm.storage.foreign_files import own_file
from mlflow_ddpm.storage.json_file import RunDocument, read_document
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME
from mlflow_ddpm.storage.mlflow_call import exclusive_migration
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.storage.run_search import find_run

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger("mlflow_ddpm")


@runtime_checkable
class Recorded(Protocol):
    """The part of MetricsTracker that is used here; importing the tracker would turn the imports around."""

    output_dir: Path
    rank: int

    @property
    def run_id(self) -> str | None:
        """The run's id."""

    @property
    def tracking_uri(self) -> str | None:
        """The tracking store."""

    @property
    def has_all_rows(self) -> bool:
        """Whether MLflow has every row."""

    def flush(self, timeout: float = ...) -> bool:
        """Deliver what waits."""

    def log_artifact(self, path: Path) -> None:
        """Log a file of the run."""


HistorySource: TypeAlias = "RunHistory | pd.DataFrame | Recorded | str | Path"


def read_history(source: HistorySource, *, tracking_uri: str | None = None) -> pd.DataFrame:
    """Return the history of a run as a DataFrame, the same to the last bit whatever it is read from.

    Args:
        source: a run id, its first letters, ``runs:/<id>`` or the ``models:/`` URI of its model; a tracker, an output
            directory, a ``training_metrics.csv`` or ``.json``, or a frame such as ``pandas.read_csv`` returns. A
            tracker is read from its tracking store; only when that cannot be reached, from its mirror, with a warning.
        tracking_uri: the tracking store of a run id; default: MLflow's own settings.

    Raises:
        HistoryError: there is no history at the source.
        MirrorError: the file is not one of ours, is damaged, a link or too large.
        StoreError: the store is away or has no such run.
        UsageError: the frame cannot be a run's history; the first letters of a run id fit several runs.
    """
    return load_history(source, tracking_uri=tracking_uri, is_described=False).frame.copy()


def load_history(source: HistorySource, *, tracking_uri: str | None = None, is_described: bool = True) -> RunHistory:
    """Return the history, of a run in a store with config and environment if ``is_described``.

    Arguments and errors are otherwise those of :func:`read_history`.
    """
    import pandas as pd

    if isinstance(source, RunHistory):
        return source
    if isinstance(source, pd.DataFrame):
        return RunHistory.from_frame(source)
    if isinstance(source, Recorded):
        return _load_tracker(source)
    if not isinstance(source, str | Path):
        raise HistoryError(
            "expected a run id, a tracker, an output directory, a CSV or JSON file or a history frame, "
            f"got {type(source).__name__}"
        )
    path = Path(source)
    if str(source) and path.is_dir():
        return _load_directory(path)
    if str(source) and path.is_file():
        if path.suffix == ".json":
            return _from_document(read_document(path))
        return _from_document(_saved_document(path.parent), read_csv(path))
    return load_stored_run(find_run(source, tracking_uri), is_described=is_described)


def is_on_another_rank(source: HistorySource) -> bool:
    """Return whether the source is a tracker of a rank other than 0: it recorded nothing, rank 0's has everything."""
    return isinstance(source, Recorded) and source.rank != 0


def log_made(source: HistorySource, paths: Iterable[Path]) -> None:
    """Log what was made from a tracker's history among its run's artifacts; other sources have no run at hand."""
    if isinstance(source, Recorded):
        try:
            for path in paths:
                source.log_artifact(path)
        except UsageError:  # the tracker was closed
            command = f"mlflow-ddpm publish {source.run_id}"
            _log.warning("the tracker is closed, so the files are on disk alone; `%s` logs a run's own", command)


def _load_directory(directory: Path) -> RunHistory:
    table, document = (own_file(directory, name) for name in (CSV_NAME, JSON_NAME))
    if table is None and document is None:
        raise HistoryError(f"expected {CSV_NAME} or {JSON_NAME} in {directory}, found neither; is it the output_dir?")
    if table is None:
        return _from_document(read_document(directory / JSON_NAME))
    saved = _saved_document(directory, with_rows=True)
    return _from_document(saved, _fuller(read_csv(table), saved.rows) if saved else read_csv(table))


def _saved_document(directory: Path, *, with_rows: bool = False) -> RunDocument | None:
    """Return the JSON of a directory whose rows are in a CSV, which is complete without: None if it is damaged."""
    try:
        path = own_file(directory, JSON_NAME)
        return read_document(path, with_rows=with_rows) if path else None
    except (MirrorError, OSError) as error:
        _log.warning("%s; the run is read without it", error)
        return None


def _from_document(document: RunDocument | None, rows: Iterable[EpochMetrics] | None = None) -> RunHistory:
    if document is None:
        return RunHistory.create(rows or ())
    run, config, environment, saved = document
    return RunHistory.create(saved if rows is None else rows, run=run, config=config, environment=environment)


def _fuller(table: list[EpochMetrics], saved: Iterable[EpochMetrics]) -> list[EpochMetrics]:
    """Return the CSV's rows, or the JSON's if those are all of the CSV's and more: the CSV lost its end."""
    document = keep_last_written(saved)
    in_document = {(row.epoch, row.logged_at_ms) for row in document}
    rows = {(row.epoch, row.logged_at_ms) for row in keep_last_written(table)}
    return document if rows < in_document else table


def load_stored_run(store: MlflowRun, *, is_described: bool = True) -> RunHistory:
    """Return a run's history from its tracking store; ``is_described`` adds config and environment."""
    with exclusive_migration(store.tracking_uri):
        rows = store.read_rows()
        return describe_stored_run(store, rows) if is_described else RunHistory.create(rows, run=store.info())


def describe_stored_run(store: MlflowRun, rows: Iterable[EpochMetrics]) -> RunHistory:
    """Return the history of a stored run's rows with everything that the store knows of the run.

    The JSON that the tracker logged has the config with its types, and the environment. Where it has none, or is not
    there, the run's params are the config.
    """
    run, document = store.info(), _fetch_document(store)
    config = (document.config if document else None) or store.read_page().params
    return RunHistory.create(rows, run=run, config=config, environment=document.environment if document else None)


def _fetch_document(store: MlflowRun) -> RunDocument | None:
    try:
        with fetched_file(store, JSON_NAME) as path:
            return read_document(path, with_rows=False) if path else None
    except MirrorError as error:
        _log.warning("%s; the run's params are taken as its config", error)
        return None


def _load_tracker(tracker: Recorded) -> RunHistory:
    reason: object = "MLflow does not have every row yet"
    if tracker.run_id and (tracker.flush() or tracker.has_all_rows):
        try:
            stored = load_stored_run(MlflowRun(tracker.tracking_uri or "", tracker.run_id), is_described=False)
        except StoreError as error:
            reason = error
        else:
            document = _saved_document(tracker.output_dir)
            if document is None:
                return stored
            run, config, environment, _ = document
            return RunHistory.create(stored.rows, run={**run, **stored.run}, config=config, environment=environment)
    _log.warning("%s; reading the history from %s instead", reason, display_path(tracker.output_dir))
    return _load_directory(tracker.output_dir)
