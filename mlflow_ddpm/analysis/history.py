"""A run's history as one DataFrame, whatever it is read from.

Columns: every metric of the table in its order, the extras by name, then ``logged_at_ms``; one row per epoch, sorted
by epoch, the last one written wins. Floats are pandas' nullable ``Float64``: ``<NA>`` means *not measured*, NaN and
infinities are values that *were* measured. Take numbers for arithmetic with :func:`numbers`.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeGuard, runtime_checkable

from mlflow_ddpm.analysis.frame import frame_from_rows
from mlflow_ddpm.core.atomic_file import shown
from mlflow_ddpm.core.errors import HistoryError, MirrorError, StoreError, UsageError
from mlflow_ddpm.storage.csv_file import read_csv
from mlflow_ddpm.storage.json_file import RunDocument, read_document
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, CSV_NAME, JSON_NAME
from mlflow_ddpm.storage.mlflow_call import exclusive_migration
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.storage.run_target import absolute_uri
from mlflow_ddpm.storage.store_address import store_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "HistorySource",
    "fetch_description",
    "is_on_another_rank",
    "log_made",
    "open_store",
    "read_description",
    "read_history",
    "run_id_of",
    "store_of",
]

_log = logging.getLogger("mlflow_ddpm")
_RUN_ID = re.compile(r"(runs:/)?(?P<id>[A-Za-z0-9_\-]{8,64})/*")  # MLflow's own are 32 hexadecimal digits


@runtime_checkable
class Recorded(Protocol):
    """What is used of a tracker; the module that defines trackers stands above this one."""

    output_dir: Path
    rank: int

    @property
    def run_id(self) -> str | None:
        """The run's id."""

    @property
    def tracking_uri(self) -> str | None:
        """The tracking store."""

    def flush(self, timeout: float = ...) -> bool:
        """Deliver what waits."""

    def log_artifact(self, path: Path) -> None:
        """Log a file of the run."""


HistorySource: TypeAlias = "pd.DataFrame | Recorded | str | Path"


def read_history(source: HistorySource, *, tracking_uri: str | None = None) -> pd.DataFrame:
    """Return the history of a run, the same frame to the last bit whatever it is read from.

    Args:
        source: a run id (or ``runs:/<id>``), a tracker, an output directory, a ``training_metrics.csv`` or ``.json``,
            or a frame, which is returned as it is. A tracker is read from its tracking store; only when that cannot be
            reached, from its mirror, and a warning says so.
        tracking_uri: the tracking store of a run id; default: MLflow's own settings.

    Raises:
        HistoryError: there is nothing of that name to read.
        MirrorError: the file is not one of ours.
        StoreError: the store is away or has no such run.
    """
    if isinstance(source, str | Path):
        found = _find_by_name(source, tracking_uri)
    elif isinstance(source, Recorded):
        found = _find_by_tracker(source)
    elif _is_history(source):
        return source
    else:
        raise HistoryError(
            "expected a run id, a tracker, an output directory, a CSV or JSON file or a history frame, "
            f"got {type(source).__name__}"
        )
    return frame_from_rows(found.rows, resumed_at_epochs=found.run.get("resumed_at_epochs") or ())


def _is_history(source: object) -> TypeGuard[pd.DataFrame]:
    import pandas as pd

    return isinstance(source, pd.DataFrame) and "epoch" in source


def is_on_another_rank(source: HistorySource) -> bool:
    """Say whether the source is a tracker of a rank other than 0: it recorded nothing, rank 0's has it all."""
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


def read_description(source: HistorySource) -> RunDocument:
    """Return what the JSON of a tracker or an output directory says of its run; empty for every other source."""
    directory = source.output_dir if isinstance(source, Recorded) else source
    path = Path(directory) / JSON_NAME if isinstance(directory, str | Path) else None
    return read_document(path) if path and path.is_file() else RunDocument({}, {}, {}, [])


def fetch_description(store: MlflowRun) -> RunDocument:
    """Return what a store knows of a run beside its epochs.

    The JSON that the tracker logged has the config with its types, and the environment; where it has none, or is not
    there, the run's params are the config.
    """
    info, told = store.info(), RunDocument({}, {}, {}, [])
    with tempfile.TemporaryDirectory() as temporary:
        path = store.fetch_file(f"{ARTIFACT_FOLDER}/{JSON_NAME}", Path(temporary))
        try:
            told = read_document(path) if path else told
        except MirrorError as error:
            _log.warning("%s; taking the config from the run's params", error)
    return RunDocument(info, told.config or store.params(), told.environment, [])


def run_id_of(source: str | Path) -> str | None:
    """Return the run that a name means, plain or as ``runs:/<id>``; None if it is no run's."""
    name = None if isinstance(source, Path) else _RUN_ID.fullmatch(source)
    return name["id"] if name else None


def open_store(run_id: str, tracking_uri: str | None = None) -> MlflowRun:
    """Return a run's store by id; the store is MLflow's configured one unless named."""
    import mlflow

    return MlflowRun(absolute_uri(tracking_uri or mlflow.get_tracking_uri()), run_id)


def _find_by_name(source: str | Path, tracking_uri: str | None) -> RunDocument:
    path = Path(source)
    if path.is_dir():
        path = next((path / name for name in (CSV_NAME, JSON_NAME) if (path / name).exists()), path)
        if path.is_dir():
            raise HistoryError(f"expected {CSV_NAME} or {JSON_NAME} in {source}, found neither; is it the output_dir?")
    if path.is_file():
        return read_document(path) if path.suffix == ".json" else _find_by_csv(path)
    run_id = run_id_of(source)
    if run_id is None:
        raise HistoryError(f"no such file or directory: {source}; expected a run id, an output directory, CSV or JSON")
    return _find_by_store(open_store(run_id, tracking_uri))


def _find_by_csv(path: Path) -> RunDocument:
    """Return the CSV's rows, and what the JSON beside it says of the run; the CSV is complete without."""
    rows, run = read_csv(path), {}
    with contextlib.suppress(MirrorError, OSError):
        run = dict(read_document(path.with_name(JSON_NAME)).run)
    return RunDocument(run, {}, {}, rows)


def _find_by_store(store: MlflowRun) -> RunDocument:
    with exclusive_migration(store.tracking_uri):
        return RunDocument(store.info(), {}, {}, store.read_rows())


def _find_by_tracker(tracker: Recorded) -> RunDocument:
    if tracker.run_id and tracker.flush():
        try:
            return _find_by_store(MlflowRun(tracker.tracking_uri or "", tracker.run_id))
        except StoreError as error:
            _log.warning("%s; reading the history from %s instead", error, shown(tracker.output_dir))
    else:
        _log.warning("MLflow has not got every row yet; reading the history from %s instead", shown(tracker.output_dir))
    return _find_by_name(tracker.output_dir, None)
