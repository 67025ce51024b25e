"""The runs that are compared: each one's history, name and hyperparameters, wherever it is read from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.analysis.history import HistorySource, load_history
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.markdown import one_line
from mlflow_ddpm.core.strict_json import flatten
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME

_ID_LETTERS = 8  # of a run id, which tell two runs of one name apart


class ComparedRun(NamedTuple):
    """One run of a comparison."""

    name: str  # unlike all others of the comparison
    config: Mapping[str, str]  # hyperparameters by dotted key; empty where none are known
    history: RunHistory

    @property
    def run_id(self) -> str | None:
        """The run's id; None if it is not known, as of a CSV by itself."""
        return self.history.run_id


def read_runs(sources: Sequence[HistorySource], tracking_uri: str | None = None) -> list[ComparedRun]:
    """Read all runs, in the order given; raise UsageError for one that is given twice, else as ``read_history``."""
    runs: list[ComparedRun] = []
    seen: dict[object, HistorySource] = {}
    for source in sources:
        history = load_history(source, tracking_uri=tracking_uri)
        same = history.run_id or _identity(source)
        if same in seen:
            raise UsageError(
                f"each run may be given once: {_display_name(seen[same])} and {_display_name(source)} are the same run"
                + (f" {history.run_id}" if history.run_id else "")
            )
        seen[same] = source
        runs.append(ComparedRun(_name(history, source, len(runs) + 1), flatten(history.config), history))
    return _with_unique_names(runs)


def group_runs(runs: Sequence[ComparedRun], parameter: str) -> dict[str, list[ComparedRun]]:
    """Return runs by the value of a hyperparameter, as ``lr = 0.1``, in order; raise UsageError if no run has it."""
    if not any(parameter in run.config for run in runs):
        names = sorted({key for run in runs for key in run.config})
        raise UsageError(f"no run has the hyperparameter {parameter!r}; there are {', '.join(names) or 'none'}")
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(f"{parameter} = {one_line(run.config.get(parameter, 'unknown'))}", []).append(run)
    return groups


def _identity(source: HistorySource) -> object:
    """Return what two names of one source have in common."""
    if isinstance(source, str | Path):
        path = Path(source).resolve()
        return path / CSV_NAME if path.is_dir() else path
    return id(source)


def _display_name(source: HistorySource) -> str:
    return str(source) if isinstance(source, str | Path) else f"a {type(source).__name__}"


def _name(history: RunHistory, source: HistorySource, number: int) -> str:
    """Return the run's own name, else that of its file or folder."""
    name, run_id = history.run.get("run_name"), history.run_id
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
