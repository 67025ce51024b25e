"""The post-run step: from the tracking store, through plots and report, to artifacts of the same run.

It works for any finished run, from any machine that reaches the store. Only when the store cannot be reached is the
mirror of an output directory used instead, and nothing is uploaded then.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.analysis.frame import rows_from_frame
from mlflow_ddpm.analysis.history import fetch_description, open_store, run_id_of
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.analysis.run_page import write_run_description
from mlflow_ddpm.core.atomic_file import replace_file, shown
from mlflow_ddpm.core.errors import HistoryError, StoreUnavailableError, UsageError
from mlflow_ddpm.core.metrics import EpochMetrics, keep_last_written
from mlflow_ddpm.core.redaction import redacted
from mlflow_ddpm.core.run_summary import summarise
from mlflow_ddpm.plots import FOLDERS, FigureSet, generate_all_plots, write_figures
from mlflow_ddpm.report import generate_report
from mlflow_ddpm.storage.csv_file import read_csv, render_csv
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.directory_lock import is_locked
from mlflow_ddpm.storage.json_file import RunDocument, encode_row, read_document, render_document
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, CSV_NAME, HTML_NAME, JSON_NAME, SAMPLES_FOLDER
from mlflow_ddpm.storage.mlflow_run import MlflowRun

__all__ = ["Published", "check_owner", "publish_or_render", "publish_run", "render_mirror", "render_run"]

_log = logging.getLogger("mlflow_ddpm")


class Published(NamedTuple):
    """What a post-run step made."""

    run_id: str | None
    output_dir: Path
    files: list[Path]
    uploaded: bool


def publish_run(
    run_id: str,
    *,
    output_dir: str | Path | None = None,
    tracking_uri: str | None = None,
    figures: FigureSet | None = None,
) -> Published:
    """Render a run's CSV, JSON, plots and report from its tracking store, and log them under ``metrics/`` of the run.

    Args:
        run_id: the run, plain or as ``runs:/<id>``.
        output_dir: where the files are made; default ``metrics-<first 8 letters of the run id>``. If it is the run's
            own output directory and the store is away, its mirror is rendered instead, and nothing is uploaded.
        tracking_uri: the tracking store; default: MLflow's own settings.
        figures: further files of the plots, which are put into a folder named for their theme. Those that the run has
            from an earlier time are made anew in any case: it may have more epochs by now.

    Raises:
        HistoryError: the run has no epochs.
        StoreError: the store is away or has no such run.
        UsageError: ``output_dir`` belongs to another run, has epochs that the store has not got, or is being written
            by a live process; or there are no such figures.
    """
    run_id = run_id_of(run_id) or run_id
    directory = Path(output_dir or f"metrics-{run_id[:8]}")
    if figures:
        figures.check()
    check_owner(directory, run_id)
    store = open_store(run_id, tracking_uri)
    try:
        snapshot = _fetch(store, directory)
    except StoreUnavailableError as error:
        if not (directory / CSV_NAME).exists():
            raise
        _log.warning("%s; rendering the mirror in %s instead, nothing is uploaded", error, directory)
        return render_mirror(directory, figures)
    _check_nothing_is_lost(directory, snapshot.rows)
    further = [*_further_figures(store), *([figures] if figures else [])]
    files = render_run(snapshot, directory, FigureSet.merge(further))
    for path in files:
        store.log_file(path, (Path(ARTIFACT_FOLDER) / path.relative_to(directory).parent).as_posix())
    resumed = snapshot.run.get("resumed_at_epochs") or ()
    write_run_description(
        store, snapshot.rows, environment=snapshot.environment, resumed_at_epochs=resumed, is_published=True
    )
    return Published(run_id, directory, files, uploaded=True)


def publish_or_render(run_id: str | None, *, output_dir: Path, tracking_uri: str | None = None) -> Published:
    """Publish the run of an output directory, or, if it has not wholly reached its store, render its mirror."""
    cursor = DeliveryState.load(output_dir)
    if run_id is None or cursor is None or not cursor.ended:
        _log.warning("MLflow has not got the whole run; rendering the mirror in %s, nothing is uploaded", output_dir)
        return render_mirror(output_dir)
    return publish_run(run_id, output_dir=output_dir, tracking_uri=tracking_uri)


def render_mirror(directory: Path, figures: FigureSet | None = None) -> Published:
    """Render plots and report of an output directory from its mirror alone."""
    from mlflow_ddpm.analysis.history import read_history

    path = directory / JSON_NAME
    told = read_document(path) if path.exists() else RunDocument({}, {}, {}, [])
    rows = rows_from_frame(read_history(directory))
    files = render_run(told._replace(rows=rows), directory, [figures] if figures else [])
    return Published(told.run.get("run_id"), directory, files, uploaded=False)


def render_run(snapshot: RunDocument, directory: Path, figures: Sequence[FigureSet] = ()) -> list[Path]:
    """Write the specified tree into ``directory``, and further figures into folders of it, and return the files.

    The same content gives the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rows, snapshot = list(snapshot.rows), _without_credentials(snapshot)
    history = RunHistory.create(rows, run=snapshot.run)
    table, document = directory / CSV_NAME, directory / JSON_NAME
    replace_file(table, render_csv(rows))
    encoded = [encode_row(row) for row in rows]
    replace_file(
        document, render_document(snapshot.run, snapshot.config, snapshot.environment, summarise(rows), encoded)
    )
    plots = generate_all_plots(history, directory)
    report = generate_report(
        history.frame,
        config=snapshot.config,
        save_dir=directory,
        plot_paths=plots,
        run=snapshot.run,
        environment=snapshot.environment,
    )
    further = dict.fromkeys(path for one in figures for path in write_figures(history, directory / one.folder, one))
    return [table, document, report, report.with_name(HTML_NAME), *plots.values(), *further]


def _without_credentials(told: RunDocument) -> RunDocument:
    """Return the snapshot fit to be published; another program may have logged what the run says of itself."""
    run, config, environment = (redacted(part).value for part in (told.run, told.config, told.environment))
    return told._replace(run=run, config=config, environment=environment)


def _fetch(store: MlflowRun, directory: Path) -> RunDocument:
    """Bring everything that the report needs from the store; sample pictures are put into ``directory``."""
    told = fetch_description(store)
    rows = keep_last_written(store.read_rows())
    if not rows:
        raise HistoryError(f"run {store.run_id} has no epochs logged by mlflow_ddpm; nothing to publish")
    for artifact in store.list_files(f"{ARTIFACT_FOLDER}/{SAMPLES_FOLDER}"):
        if not (directory / SAMPLES_FOLDER / Path(artifact).name).exists():
            _fetch_sample(store, artifact, directory)
    return told._replace(rows=rows)


def _further_figures(store: MlflowRun) -> list[FigureSet]:
    """Return which figures the run has beside those of the report."""
    files = {folder: store.list_files(f"{ARTIFACT_FOLDER}/{folder}") for folder in FOLDERS}
    return [
        figures
        for folder, paths in files.items()
        for figures in FigureSet.from_file_names(folder, {Path(path).name for path in paths})
    ]


def _fetch_sample(store: MlflowRun, artifact: str, directory: Path) -> None:
    (directory / SAMPLES_FOLDER).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        path = store.fetch_file(artifact, Path(temporary))
        if path is not None:
            replace_file(directory / SAMPLES_FOLDER / path.name, path.read_bytes())


def check_owner(directory: Path, run_id: str) -> None:
    """Refuse a directory that holds another run's files.

    Raises:
        UsageError: it does.
    """
    cursor = DeliveryState.load(directory)
    owner = cursor.run_id if cursor else None
    if owner is None and (directory / JSON_NAME).exists():
        owner = read_document(directory / JSON_NAME).run.get("run_id")
    if owner not in (None, run_id):
        raise UsageError(f"{shown(directory)} holds run {owner}, not {run_id}; choose another output directory")


def _check_nothing_is_lost(directory: Path, rows: Sequence[EpochMetrics]) -> None:
    """Refuse to write the store's rows over a mirror that has later ones, or is about to.

    Raises:
        UsageError: it has.
    """
    if directory.is_dir() and is_locked(directory):
        raise UsageError(f"{shown(directory)} is being written by a live process; choose another output directory")
    mirrored = read_csv(directory / CSV_NAME) if (directory / CSV_NAME).exists() else []
    newest = max(row.logged_at_ms for row in rows)
    waiting = sum(row.logged_at_ms > newest for row in mirrored)
    if waiting:
        raise UsageError(
            f"{shown(directory)} has {waiting} epochs that MLflow has not got; send them with "
            f"`mlflow-ddpm sync {shown(directory)}`, or choose another output directory"
        )
