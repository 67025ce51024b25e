"""A run with its model as a folder that is a finished model repository for the Hugging Face Hub.

``README.md`` (the model card), ``model.safetensors``, ``config.json``, ``training_metrics.csv``, ``plots/`` and
``samples/``. The card's last line holds a checksum of the text above it: a folder with such a card was made here and
not edited since, and only such a folder is written again.
"""

import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.analysis.history import load_history, load_stored_run
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import HistoryError, ModelError, UsageError
from mlflow_ddpm.core.formatting import display_path
from mlflow_ddpm.ddpm.saved_model.load import find_model, load_model
from mlflow_ddpm.plots import generate_all_plots
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.publishing.hub_card import license_fields, render_card
from mlflow_ddpm.reporting.manifest import sample_files
from mlflow_ddpm.storage.artifacts import Artifacts
from mlflow_ddpm.storage.csv_file import render_csv
from mlflow_ddpm.storage.layout import (
    ARTIFACT_FOLDER,
    CSV_NAME,
    DESCRIPTION_NAME,
    SAMPLE_PATTERN,
    SAMPLES_FOLDER,
    WEIGHTS_NAME,
    model_files,
)
from mlflow_ddpm.storage.run_search import find_run

CARD_NAME = "README.md"
_PLOTS_FOLDER = "plots"
_MODEL_NAMES = (WEIGHTS_NAME, DESCRIPTION_NAME)
_OF_USER = {"LICENSE", "LICENSE.md", "LICENSE.txt"}  # beside a card of ours; it may ask for one
_OF_HUB = {".git", ".gitattributes", ".gitignore", ".cache"}  # of `git clone` and `hf download`
_MARK = "<!-- mlflow-ddpm export, SHA-256 of the text above: {} -->\n"
_MARK_PATTERN = re.compile(re.escape(_MARK).replace(r"\{\}", "([0-9a-f]{64})"))
_MARK_LENGTH = len(_MARK.format("0" * 64))
_NAME_MAX = 96  # characters of a repository's name on the Hub


class Exported(NamedTuple):
    """What an export made."""

    folder: Path
    files: list[Path]  # the card first
    license: str  # as the card's header has it; `other` where none was chosen, or none that the Hub knows


def export_run(
    source: str | Path, folder: str | Path, *, license_name: str = "", tracking_uri: str | None = None
) -> Exported:
    """Make a folder that can be uploaded to the Hugging Face Hub as it is; :func:`mlflow_ddpm.load_model` loads it.

    A folder that an earlier export made is written again, with a ``LICENSE`` in it left alone.

    Args:
        source: an output directory with its model, a run id, its first letters, ``runs:/<id>``, or the ``models:/`` URI
            of its model.
        folder: made if it is not there; empty, or an earlier export's.
        license_name: one of the Hub's identifiers, such as ``apache-2.0``, or another license's name. Default: the
            ``license`` of the run's config; without one the card has ``other`` and a note.
        tracking_uri: the tracking store of a run id; default: MLflow's own settings.

    Raises:
        HistoryError: the source has no history to read.
        ModelError: the run has no model, or it is damaged.
        StoreError: the store is away or has no such run.
        UsageError: the folder holds other files, or a card that was edited.
        OSError: the disk is full or read-only.
    """
    folder = Path(folder)
    _check_folder(folder)
    with tempfile.TemporaryDirectory() as temporary:
        history, root = _read(source, tracking_uri, Path(temporary) / "run")
        license_name = license_name or str(history.config.get("license") or "")
        files = dict(_files(history, root, Path(temporary) / "plots", license_name))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():  # the card first: after a crash the folder is known to be an export
        (folder / name).parent.mkdir(exist_ok=True)
        replace_file(folder / name, content)
    for name in _names_in(folder) - set(files):
        if _is_ours(name):
            (folder / name).unlink()  # a plot or sample of an earlier export
    return Exported(folder, [folder / name for name in files], license_fields(license_name)["license"])


def hub_name(folder: Path) -> str:
    """Return a folder's name as the Hub accepts it as that of a repository."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", folder.absolute().name).removesuffix(".git")
    name = re.sub(r"\.\.+", ".", name).strip("-.")[:_NAME_MAX].strip("-.")
    return name or "ddpm"


def _read(source: str | Path, tracking_uri: str | None, fetched: Path) -> tuple[RunHistory, Path]:
    """Return a run's history, and a directory with its model and its samples, as a tracker's has them."""
    path = Path(source)
    if str(source) and path.exists():
        root = path if path.is_dir() else path.parent
        load_model(root)
        if not model_files(root):
            raise ModelError(
                f"{display_path(root)} holds a model alone; name the run's output directory, or its run id"
            )
        history = load_history(path)
    else:
        store = find_run(source, tracking_uri)
        history = load_stored_run(store)
        artifacts = Artifacts(store)
        pictures = artifacts.find(f"{ARTIFACT_FOLDER}/{SAMPLES_FOLDER}")
        artifacts.fetch([*find_model(artifacts, f"run {store.run_id}"), *pictures], fetched)
        root, samples = fetched, fetched / ARTIFACT_FOLDER / SAMPLES_FOLDER
        if samples.exists():
            samples.rename(root / SAMPLES_FOLDER)
    if not history.rows:
        raise HistoryError(f"{source} has no rows; there is nothing to export yet")
    return history, root


def _files(history: RunHistory, root: Path, plots_folder: Path, license_name: str) -> Iterator[tuple[str, bytes]]:
    """Yield the folder's files by name, the card first."""
    model = load_model(root)
    samples = {link: root / link for link in (file.link for file in sample_files(root)) if _is_ours(link)}
    drawn = generate_all_plots(history, plots_folder)
    card = render_card(
        history,
        model.description,
        parameters=sum(p.numel() for p in model.unet.parameters()),
        license_name=license_name,
        plots={name: f"{_PLOTS_FOLDER}/{path.name}" for name, path in drawn.items()},
        samples=list(samples),
    )
    text = card + "\n"
    yield CARD_NAME, (text + _MARK.format(_digest(text))).encode()
    yield CSV_NAME, render_csv(history.rows)
    copied = {path.name: path for path in model_files(root)} | samples
    copied |= {f"{_PLOTS_FOLDER}/{path.name}": path for path in drawn.values()}
    for name, path in copied.items():
        yield name, path.read_bytes()


def _is_ours(name: str) -> bool:
    """Return whether a file of this name, relative to the folder, is one of an export."""
    parent, _, file = name.rpartition("/")
    if parent == SAMPLES_FOLDER:
        return SAMPLE_PATTERN.fullmatch(file) is not None
    if parent == _PLOTS_FOLDER:
        return file in {f"{plot.name}.png" for plot in PLOTS}
    return not parent and file in (CARD_NAME, CSV_NAME, *_MODEL_NAMES)


def _names_in(folder: Path) -> set[str]:
    """Return the names of all files and links below the folder, but those of git and of ``hf``."""
    top = [path for path in folder.iterdir() if path.name not in _OF_HUB]
    below = [inner for path in top if path.is_dir() and not path.is_symlink() for inner in path.rglob("*")]
    return {path.relative_to(folder).as_posix() for path in (*top, *below) if path.is_symlink() or not path.is_dir()}


def _check_folder(folder: Path) -> None:
    """Refuse a file, a link, or a folder with anything in it that an export did not make."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"expected a folder, got {display_path(folder)}, which is a file or a link; name another one")
    names = _names_in(folder) if folder.is_dir() else set()
    if not names:
        return
    others = sorted(name for name in names if not _is_ours(name) and name not in _OF_USER)
    links = sorted(name for name in names if (folder / name).is_symlink())
    if links:
        raise UsageError(
            f"{display_path(folder)} holds the link {links[0]}, which is not followed; name another folder"
        )
    if others or CARD_NAME not in names:
        raise UsageError(
            f"{display_path(folder)} holds {others[0] if others else min(names)}, which no export made; name an empty "
            "or a new folder"
        )
    text = (folder / CARD_NAME).read_bytes().decode(errors="replace")
    body, last_line = text[:-_MARK_LENGTH], text[-_MARK_LENGTH:]
    mark = _MARK_PATTERN.fullmatch(last_line)
    if mark is None or mark[1] != _digest(body):
        raise UsageError(
            f"{display_path(folder / CARD_NAME)} was edited, or is no export's; name another folder, or move that "
            "file away"
        )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
