"""The runs that are compared: each one's history, name and hyperparameters, wherever it is read from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_ddpm.analysis.history import (
    HistorySource,
    fetch_description,
    open_store,
    read_description,
    read_history,
    run_id_of,
)
from mlflow_ddpm.core.errors import MirrorError, UsageError
from mlflow_ddpm.core.markdown import one_line
from mlflow_ddpm.core.redaction import redacted
from mlflow_ddpm.core.strict_json import flatten
from mlflow_ddpm.storage.json_file import RunDocument, read_document
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME
from mlflow_ddpm.storage.mlflow_call import exclusive_migration

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ComparedRun", "read_runs"]

_ID_LETTERS = 8  # of a run id, which tell two runs of one name apart


class ComparedRun(NamedTuple):
    """One run of a comparison."""

    name: str  # unlike all others of the comparison
    run_id: str | None  # None: not known, as of a CSV by itself
    config: Mapping[str, str]  # hyperparameters by dotted key; empty where none are known
    history: pd.DataFrame


def read_runs(sources: Sequence[HistorySource], tracking_uri: str | None = None) -> list[ComparedRun]:
    """Read all runs, in the order given.

    Raises:
        UsageError: a run is given twice.
        HistoryError: a source has no history to read. :func:`mlflow_ddpm.read_history` says what else it raises.
    """
    runs: list[ComparedRun] = []
    seen: dict[object, HistorySource] = {}
    for source in sources:
        history = read_history(source, tracking_uri=tracking_uri)
        told = _describe(source, tracking_uri)
        run_id = told.run.get("run_id")
        same = run_id or _place(source)
        if same in seen:
            raise UsageError(
                f"each run may be given once: {_shown(seen[same])} and {_shown(source)} are the same run"
                + (f" {run_id}" if run_id else "")
            )
        seen[same] = source
        config = flatten(redacted(told.config).value) if told.config else {}
        runs.append(ComparedRun(_name(told.run, source, len(runs) + 1), run_id, config, history))
    return _with_unique_names(runs)


def _describe(source: HistorySource, tracking_uri: str | None) -> RunDocument:
    """Return what is known of a run beside its epochs."""
    if not isinstance(source, str | Path) or Path(source).is_dir():
        return read_description(source)
    path = Path(source)
    if path.is_file():
        return _read_json(path if path.suffix == ".json" else path.with_name(JSON_NAME))
    store = open_store(run_id_of(source) or str(source), tracking_uri)
    with exclusive_migration(store.tracking_uri):
        return fetch_description(store)


def _read_json(path: Path) -> RunDocument:
    """Return what a run's JSON says; a history is complete without, so one that cannot be read says nothing."""
    try:
        return read_document(path)
    except (MirrorError, OSError):
        return RunDocument({}, {}, {}, [])


def _place(source: HistorySource) -> object:
    """Return what two names of one source have in common."""
    if isinstance(source, str | Path):
        path = Path(source).resolve()
        return path / CSV_NAME if path.is_dir() else path
    return id(source)


def _shown(source: HistorySource) -> str:
    return str(source) if isinstance(source, str | Path) else f"a {type(source).__name__}"


def _name(run: Mapping[str, Any], source: HistorySource, number: int) -> str:
    """Return the run's own name, else that of its file or folder."""
    name, run_id = run.get("run_name"), run.get("run_id")
    if not name and isinstance(source, str | Path) and not run_id:
        path = Path(source).resolve()
        name = path.parent.name if path.name in (CSV_NAME, JSON_NAME) else path.stem if path.is_file() else path.name
    return one_line(str(name or (run_id or "")[:_ID_LETTERS])) or f"run {number}"


def _with_unique_names(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Put the run id's first letters, or else a number, after names that two runs share."""
    counts = Counter(run.name for run in runs)
    named = [
        run._replace(name=f"{run.name} ({run.run_id[:_ID_LETTERS]})") if counts[run.name] > 1 and run.run_id else run
        for run in runs
    ]
    counts = Counter(run.name for run in named)
    return [
        run._replace(name=f"{run.name} ({i})") if counts[run.name] > 1 else run for i, run in enumerate(named, start=1)
    ]
