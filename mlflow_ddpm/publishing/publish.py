"""The post-run step: from the tracking store, through plots and report, to artifacts of the same run.

It works for any run, also one that still trains, from any machine that reaches the store. Only when the store cannot be
reached is the mirror of an output directory used instead, and nothing is uploaded then.
"""

import logging
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.analysis.history import describe_stored_run, load_history
from mlflow_ddpm.analysis.run_description import write_run_description
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import HistoryError, MirrorError, StoreUnavailableError, UsageError
from mlflow_ddpm.core.formatting import count_of, display_path
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.plots import FOLDERS, FigureSet, generate_all_plots, write_figures
from mlflow_ddpm.publishing.named_run import check_owner, has_history, name_run
from mlflow_ddpm.report import write_report
from mlflow_ddpm.storage.artifacts import Artifacts
from mlflow_ddpm.storage.csv_file import render_csv
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.directory_lock import is_locked
from mlflow_ddpm.storage.foreign_files import own_file
from mlflow_ddpm.storage.images import PAGE_WIDTH, encode_png, images_on_disk
from mlflow_ddpm.storage.json_file import RunDocument, render_document
from mlflow_ddpm.storage.layout import (
    ARTIFACT_FOLDER,
    CSV_NAME,
    DASHBOARD_NAME,
    JSON_NAME,
    PREVIEW_NAME,
    SAMPLES_FOLDER,
)
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.storage.recovery import read_rows

_log = logging.getLogger("mlflow_ddpm")
_PREVIEW_HEIGHT = 520  # pixels at most
_PREVIEW_SMALL = 350  # a grid of fewer pixels is enlarged by a whole number
_MOST_PIXELS = 50_000_000  # of a picture that is opened: it may come from a store


class Published(NamedTuple):
    """What a post-run step made."""

    run_id: str | None
    output_dir: Path
    files: list[Path]
    uploaded: bool
    tracking_uri: str = ""  # the store that it was uploaded to


def publish_run(
    run: str | Path,
    *,
    output_dir: str | Path | None = None,
    tracking_uri: str | None = None,
    figures: FigureSet | None = None,
) -> Published:
    """Render a run's CSV, JSON, plots and report from its tracking store, and log them under ``metrics/`` of the run.

    Args:
        run: a run id, its first letters, ``runs:/<id>``, the ``models:/`` URI of its model, or an output directory (or
            the CSV or JSON in it) of the run.
        output_dir: where the files are made; default: the output directory that names the run unless a live process
            writes there, else ``metrics-<first 8 letters of the run id>``. If it is the run's own output directory and
            the store is away, its mirror is rendered instead, and nothing is uploaded.
        tracking_uri: the tracking store; default: MLflow's own settings.
        figures: further files of the plots, which are put into a folder named for their theme. Those that the run has
            from an earlier time are made anew in any case: it may have more epochs by now. A folder has every picture
            in all formats and widths that it has or that are wanted.

    Raises:
        HistoryError: the run has no epochs, or a directory names no run of a store.
        MirrorError: a file of the directory is damaged, or a link.
        StoreError: the store is away or has no such run.
        UsageError: ``output_dir`` belongs to another run, has epochs that the store does not have, or is being written
            by a live process; or there are no such figures.
    """
    if figures:
        figures.check()
    named = name_run(run, tracking_uri)
    directory = Path(output_dir or f"metrics-{named.store.run_id[:8]}")
    if not output_dir and named.directory and not is_locked(named.directory):
        directory = named.directory
    check_owner(directory, named.store.run_id)
    try:
        logged, further = named.store.read_rows(), _further_figures(named.store)
    except StoreUnavailableError as error:
        if not has_history(directory):
            raise
        _log.warning("%s; rendering the mirror in %s instead, nothing is uploaded", error, directory)
        return render_mirror(directory, figures)
    return _publish(named.store, logged, directory, [*further, *([figures] if figures else [])])


def _publish(
    store: MlflowRun, logged: Sequence[EpochMetrics], directory: Path, figures: Iterable[FigureSet]
) -> Published:
    history = describe_stored_run(store, logged)
    if not history.rows:
        raise HistoryError(f"run {store.run_id} has no rows logged by mlflow_ddpm; nothing to publish")
    check_nothing_is_lost(directory, logged)
    directory.mkdir(parents=True, exist_ok=True)
    _fetch_samples(Artifacts(store), directory)
    files = render_run(history, directory, FigureSet.merge(figures))
    for path in files:
        store.log_file(path, (Path(ARTIFACT_FOLDER) / path.relative_to(directory).parent).as_posix())
    names = [path.relative_to(directory).as_posix() for path in files]
    preview = make_preview(directory)
    if preview is not None:
        with tempfile.TemporaryDirectory() as temporary:
            (Path(temporary) / PREVIEW_NAME).write_bytes(preview)
            store.log_file(Path(temporary) / PREVIEW_NAME, ARTIFACT_FOLDER)
        names.append(PREVIEW_NAME)
    write_run_description(store, history, artifacts=names)
    return Published(store.run_id, directory, files, uploaded=True, tracking_uri=store.tracking_uri)


def make_preview(directory: Path) -> bytes | None:
    """Return the picture that a run's description begins with, a PNG; None without any.

    It is the newest sample grid of the directory, else the dashboard, at a size that fits: MLflow's pages show a
    picture in a description at its natural size.
    """
    samples = sorted(images_on_disk(directory), key=lambda image: (image.epoch, image.name), reverse=True)
    pictures = [*(sample.path for sample in samples[:1]), own_file(directory, DASHBOARD_NAME)]
    thumbnails = (_thumbnail(picture) for picture in pictures if picture)
    return next(filter(None, thumbnails), None)


def _thumbnail(picture: Path) -> bytes | None:
    """Return a picture as a PNG that fits; None, with a line in the log, if it cannot be read."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(picture) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise ValueError(f"it has {opened.width * opened.height:,} pixels, more than {_MOST_PIXELS:,}")  # noqa: TRY301
            image = opened.convert("L" if opened.mode == "L" else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        _log.warning("%s cannot be shown in the run's description: %s", display_path(picture), error)
        return None
    factor = max(1, _PREVIEW_SMALL // image.width)
    if factor > 1:  # whole pixels stay sharp
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((PAGE_WIDTH, _PREVIEW_HEIGHT), Image.Resampling.LANCZOS)
    return encode_png(np.asarray(image))


def publish_or_render(directory: Path, tracking_uri: str | None = None) -> Published:
    """Publish the run of an output directory, or, if it has not wholly reached its store, render its mirror."""
    state = DeliveryState.load(directory)
    if state is None or state.run_id is None or not state.ended:
        _log.warning("MLflow's copy is incomplete; rendering local files in %s without uploading", directory)
        return render_mirror(directory)
    return publish_run(state.run_id, output_dir=directory, tracking_uri=tracking_uri)


def render_mirror(directory: Path, figures: FigureSet | None = None) -> Published:
    """Render plots and report of an output directory from its mirror alone."""
    history = load_history(directory)
    files = render_run(history, directory, [figures] if figures else [])
    return Published(history.run_id, directory, files, uploaded=False)


def render_run(history: RunHistory, directory: Path, figures: Sequence[FigureSet] = ()) -> list[Path]:
    """Write the specified tree into ``directory``, and further figures into folders of it, and return the files.

    The same content gives the same bytes.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for figure_set in figures:
        _check_no_link(directory / figure_set.folder)
    table, document = directory / CSV_NAME, directory / JSON_NAME
    replace_file(table, render_csv(history.rows))
    run = RunDocument(history.run, history.config, history.environment, history.rows)
    replace_file(document, render_document(run))
    plots = generate_all_plots(history, directory)
    reports = write_report(history, directory, plots)
    further = [path for wanted in figures for path in write_figures(history, directory / wanted.folder, wanted)]
    return [table, document, *reports, *plots.values(), *dict.fromkeys(further)]


def _further_figures(store: MlflowRun) -> list[FigureSet]:
    """Return which figures the run has beside those of the report."""
    artifacts = Artifacts(store)
    names = {folder: {file.name for file in artifacts.find(f"{ARTIFACT_FOLDER}/{folder}")} for folder in FOLDERS}
    sets = (FigureSet.from_file_names(*item) for item in names.items())
    return [figures for figures in sets if figures]


def _fetch_samples(artifacts: Artifacts, directory: Path) -> None:
    """Bring the sample pictures that the directory does not have yet: those of other names, or of another size."""
    folder = directory / SAMPLES_FOLDER
    _check_no_link(folder)
    here = {path.name: path.lstat().st_size for path in folder.glob("*")}
    samples = artifacts.find(f"{ARTIFACT_FOLDER}/{SAMPLES_FOLDER}")
    wanted = [file for file in samples if file.name not in here or file.size not in (None, here[file.name])]
    if not wanted:
        return
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".publish-") as temporary:
        for path in artifacts.fetch(wanted, Path(temporary)):
            path.replace(folder / path.name)


def _check_no_link(folder: Path) -> None:
    """Refuse to write into a folder that is a link: it may lead out of the output directory."""
    if folder.is_symlink():
        raise MirrorError(
            f"{display_path(folder)} is a symbolic link, which is not followed; put a folder in its place"
        )


def check_nothing_is_lost(directory: Path, logged: Iterable[EpochMetrics]) -> None:
    """Raise UsageError for a directory with epochs that the store's rows do not have, or which gets them just now."""
    if directory.is_dir() and is_locked(directory):
        raise UsageError(
            f"{display_path(directory)} is being written by a live process; choose another output directory"
        )
    lost = epochs_missing_from(logged, directory)
    if lost:
        raise UsageError(
            f"{display_path(directory)} has {count_of(lost, 'row')} not yet in MLflow; send them with "
            f"`mlflow-ddpm sync {display_path(directory)}`, or choose another output directory"
        )


def epochs_missing_from(rows: Iterable[EpochMetrics], directory: Path) -> int:
    """Return how many epochs of a directory are not among these rows, or are newer there.

    ``rows`` may have superseded ones, which a directory may still hold.
    """
    if not has_history(directory):
        return 0
    for name in (CSV_NAME, JSON_NAME):
        own_file(directory, name)  # raises for a link
    newest = {row.epoch: row.logged_at_ms for row in sorted(rows, key=lambda row: row.logged_at_ms)}
    return sum(row.logged_at_ms > newest.get(row.epoch, -1) for row in read_rows(directory))
