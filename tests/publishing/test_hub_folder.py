"""A run with its model as a model repository for the Hugging Face Hub: what is in it, and what is never overwritten."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils._validators import validate_repo_id
from mlflow import MlflowClient
from support.common import ROOT
from support.pipeline import NAMES, small_model

from mlflow_ddpm import MetricsTracker, export_run, load_model
from mlflow_ddpm.cli.main import main
from mlflow_ddpm.core.errors import HistoryError, ModelError, UsageError
from mlflow_ddpm.ddpm.saved_model.model_files import save_model
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.publishing.hub_folder import hub_name

PLOT_FILES = {f"plots/{plot.name}.png" for plot in PLOTS}
TREE = {
    "README.md",
    "config.json",
    "model.safetensors",
    "training_metrics.csv",
    *PLOT_FILES,
    "samples/grid_epoch_000000.png",
    "samples/grid_epoch_000001.png",
}


def record(directory: Path, uri: str, *, classes: tuple[str, ...] = NAMES, **options: Any) -> str:
    """Make an output directory with two epochs, two grids and a model, and log the model; return the run's id."""
    with MetricsTracker(directory, tracking_uri=uri, **options) as tracker:
        for epoch in range(2):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0 / (epoch + 1), lr=0.1, batch_size=8)
            tracker.end_epoch(extra={"sample/accuracy": 0.5 + epoch / 4, "fid": 3.0})
            tracker.log_image("grid", np.full((8, 8), 100 * epoch, np.uint8), epoch)
        run_id = str(tracker.run_id)
    for path in save_model(directory, *small_model(), classes):
        MlflowClient(uri).log_artifact(run_id, str(path), "model")
    return run_id


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A directory with a store, a run's output directory ``run``, and its export ``hub``."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(empty_database, home / "mlflow.db")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    run_id = record(home / "run", uri, run_name="my digits", config={"data": {"name": "digits"}})
    (home / "run_id").write_text(run_id)
    export_run(home / "run", home / "hub")
    return home


@pytest.fixture
def hub(home: Path, tmp_path: Path) -> Path:
    """An export of the test's own."""
    return Path(shutil.copytree(home / "hub", tmp_path / "hub"))


def content(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def snippet(folder: Path) -> str:
    """Return the card's Python code."""
    text = (folder / "README.md").read_text("utf-8")
    ((_, code),) = re.findall(r"^(`{3,})python\n(.*?)^\1$", text, re.MULTILINE | re.DOTALL)
    return str(code)


def test_the_folder_has_the_model_its_card_its_pictures_and_its_metrics(home: Path) -> None:
    """And nothing else; files are public where the umask says so."""
    files = content(home / "hub")

    assert set(files) == TREE
    assert files["model.safetensors"] == (home / "run/model/model.safetensors").read_bytes()
    assert files["config.json"] == (home / "run/model/config.json").read_bytes()
    rows = list(csv.DictReader(files["training_metrics.csv"].decode().splitlines()))
    assert [row["loss_mean"] for row in rows] == ["1.0", "0.5"]
    for name in TREE:
        if name.endswith(".png"):
            assert files[name].startswith(b"\x89PNG"), name
    np.testing.assert_array_equal(
        load_model(home / "hub").sample(["b"], seed=3), load_model(home / "run").sample(["b"], seed=3)
    )


@pytest.mark.usefixtures("one_plot")
@pytest.mark.parametrize(("counted", "words"), [({"train_images": 8000}, "8,000 images"), ({}, "Images")])
def test_the_card_says_how_many_images_of_a_split_were_used(
    sqlite_uri: str, counted: dict[str, int], words: str
) -> None:
    """As the run counted them, which may be fewer than the official split has; no number is made up."""
    record(Path("run"), sqlite_uri, config={"data": {"name": "emnist-letters"} | counted})
    description = Path("run/model/config.json")
    description.write_text(json.dumps(json.loads(description.read_text()) | {"trained_on": "emnist-letters"}))

    export_run("run", "hub")

    assert f". {words} of the split's training part were used." in Path("hub/README.md").read_text("utf-8")


def test_every_link_of_the_card_is_relative_and_leads_to_a_file(home: Path) -> None:
    """All plots are linked; the newest sample grid is the first picture."""
    text = (home / "hub/README.md").read_text("utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)

    assert links[0] == "samples/grid_epoch_000001.png"
    assert set(links) == PLOT_FILES | {links[0]}
    assert all((home / "hub" / link).is_file() for link in links)


def test_the_hubs_own_library_reads_the_card(home: Path) -> None:
    """Licence, task, and the metrics with their values; no data set is claimed to be one of the Hub's."""
    data = ModelCard.load(home / "hub/README.md").data
    results = {(result.metric_type, result.metric_name): result.metric_value for result in data.eval_results or ()}

    assert (data.license, data.license_name) == ("other", "none-chosen")
    assert data.pipeline_tag == "unconditional-image-generation"
    assert data.model_name == "my digits"
    assert data.datasets is None
    assert {(result.dataset_type, result.dataset_name) for result in data.eval_results or ()} == {("unknown", "digits")}
    assert results == {
        ("loss", "Training loss, lowest epoch mean (epoch 1)"): 0.5,
        ("loss", "Training loss, last epoch mean (epoch 1)"): 0.5,
        ("sample/accuracy", "Sample accuracy, guidance 2 (epoch 1)"): 0.75,
    }


@pytest.mark.slow
def test_the_cards_snippet_draws_in_a_fresh_process(hub: Path) -> None:
    """In the folder, as the card says."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", snippet(hub)], cwd=hub, env=env, capture_output=True, text=True, timeout=300, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    drawn = (hub / "drawn.png").read_bytes()
    assert struct.unpack(">II", drawn[16:24]) == (3 * 16, 16)  # width, height of PNG's header


def test_a_run_id_gives_the_same_folder_as_its_directory(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the store alone; the command ends with the line that uploads it, whose name the Hub accepts."""
    run_id = (home / "run_id").read_text()
    uri = f"sqlite:///{home / 'mlflow.db'}"

    assert main(["export", f"runs:/{run_id}", "sub/my hub", "--tracking-uri", uri]) == 0

    assert content(Path("sub/my hub")) == content(home / "hub")
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"17 files \(\d\.\d MiB\) are in 'sub/my hub'; read 'sub/my hub/README.md'", lines[0])
    assert lines[1].startswith("the license is `other`: name one with --license")
    assert lines[2] == "hf upload my-hub 'sub/my hub'"
    assert len(lines) == 3


@pytest.mark.slow
def test_an_earlier_export_is_written_again(home: Path, hub: Path) -> None:
    """Pictures that the run no longer has go; the user's LICENSE and what git and hf keep there stay."""
    for name in ("LICENSE", ".gitattributes", ".git/config", ".cache/huggingface/x"):
        (hub / name).parent.mkdir(parents=True, exist_ok=True)
        (hub / name).write_text("mine")
    shutil.copy(hub / "samples/grid_epoch_000001.png", hub / "samples/grid_epoch_000099.png")
    (hub / "model.safetensors").unlink()  # as after a crash: the card is written first

    made = export_run(home / "run", hub, license_name="MIT")

    kept = {"LICENSE", ".gitattributes", ".git/config", ".cache/huggingface/x"}
    assert set(content(hub)) == TREE | kept
    assert {(hub / name).read_text() for name in kept} == {"mine"}
    assert made.files[0] == hub / "README.md"
    assert ModelCard.load(hub / "README.md").data.license == "mit"


def _add(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")

    return change


def _edit_card(folder: Path) -> None:
    path = folder / "README.md"
    path.write_text(path.read_text("utf-8").replace("## Usage", "## How to use"), "utf-8")


def _only(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.iterdir():
            if path.name not in names:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def _link(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder.parent / "private.txt")

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_add("notes.txt"), r"hub holds notes\.txt, which no export made"),
        (_add("plots/mine.png"), r"hub holds plots/mine\.png, which no export made"),
        (_add("samples/old/grid_epoch_000001.png"), "which no export made"),
        (_edit_card, r"hub/README\.md was edited, or is no export's"),
        (_add("README.md"), r"hub/README\.md was edited, or is no export's"),
        (_only("config.json", "model.safetensors"), r"hub holds config\.json, which no export made"),
        (_link("model.safetensors"), r"hub holds the link model\.safetensors, which is not followed"),
        (_link("samples/grid_epoch_000001.png"), "holds the link samples/grid"),
        (_link("LICENSE"), "holds the link LICENSE"),
    ],
)
def test_a_folder_with_anything_else_in_it_is_refused(
    home: Path, hub: Path, change: Callable[[Path], None], message: str
) -> None:
    """Untouched, and the file that a link leads to, too."""
    private = hub.parent / "private.txt"
    private.write_text("private")
    change(hub)
    before = content(hub)

    with pytest.raises(UsageError, match=message):
        export_run(home / "run", hub)
    assert content(hub) == before
    assert private.read_text() == "private"


def test_a_file_a_link_and_a_runs_own_folders_are_no_place_for_an_export(home: Path, tmp_path: Path) -> None:
    """Each is refused in one line."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")

    for name in ("file", "link"):
        with pytest.raises(UsageError, match="expected a folder, got"):
            export_run(home / "run", tmp_path / name)
    for folder in (home / "run", home / "run/model"):
        before = content(folder)
        with pytest.raises(UsageError, match="which no export made"):
            export_run(home / "run", folder)
        assert content(folder) == before


def test_a_run_without_a_model_and_a_model_without_a_run_are_one_line(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By run id and by directory; nothing is made."""
    uri = f"sqlite:///{home / 'mlflow.db'}"
    with MetricsTracker("bare", tracking_uri=uri) as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(1.0)
        tracker.end_epoch()
        run_id = str(tracker.run_id)

    for source, error, message in (
        (run_id, ModelError, f"run {run_id} has no model among its artifacts"),
        ("bare", ModelError, "no model in bare"),
        (home / "run/model", ModelError, "holds a model alone"),
        ("gone/gone", HistoryError, "no such file or directory: gone/gone"),
    ):
        with pytest.raises(error, match=message):
            export_run(source, "hub", tracking_uri=uri)
    assert not Path("hub").exists()
    assert main(["export", "bare", "hub"]) == 1
    assert re.fullmatch(r"mlflow-ddpm: error: no model in bare.*\n", capsys.readouterr().err)


@pytest.mark.usefixtures("one_plot")
def test_a_link_in_the_runs_directory_is_not_exported(home: Path, tmp_path: Path) -> None:
    """It may lead to any private file: a sample is left out, a model refused."""
    run = Path(shutil.copytree(home / "run", tmp_path / "run"))
    Path("private.png").write_bytes((run / "samples/grid_epoch_000000.png").read_bytes())
    (run / "samples/grid_epoch_000002.png").symlink_to(tmp_path / "private.png")
    (run / "samples/holiday.png").write_bytes(b"\x89PNG no grid of the run")

    export_run(run, "hub")

    assert set(content(Path("hub"))) == TREE - PLOT_FILES | {"plots/loss_linear.png"}
    (run / "model/model.safetensors").unlink()
    (run / "model/model.safetensors").symlink_to(home / "run/model/model.safetensors")
    with pytest.raises(ModelError, match="is a link, which is not followed"):
        export_run(run, "hub2")


@pytest.mark.usefixtures("one_plot")
def test_foreign_text_stays_text_and_secrets_stay_out(sqlite_uri: str) -> None:
    """Of the run's name, its config and the classes' names."""
    run_name = "x](http://evil) <img src=x> token=hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"
    classes = ('a"b', "c'd`", "e\\```")
    config = {"license": "My Own License 2.0", "data": {"name": "my <b>scans</b>"}, "api_key": "sk-0123456789abcdef"}
    record(Path("run"), sqlite_uri, run_name=run_name, config=config, classes=classes)
    description = Path("run/model/config.json")
    description.write_text(json.dumps(json.loads(description.read_text()) | {"trained_on": "my `scans` <b>"}))

    export_run("run", "hub")

    text = Path("hub/README.md").read_text("utf-8")
    data = ModelCard.load(Path("hub/README.md")).data
    assert (data.license, data.license_name) == ("other", "my-own-license-2.0")
    assert "hf_abcdefghijkl" not in text
    assert "sk-0123456789" not in text
    body = text.partition("\n---\n")[2]
    assert "<img" not in text
    assert "<b>" not in text
    assert not re.search(r"(?<!\\)\]\(http://evil\)", body)  # an escaped bracket makes no link
    calls = [line for line in snippet(Path("hub")).splitlines() if "model.sample(" in line]
    assert calls[0].startswith(f"images = model.sample({json.dumps(list(classes))}, seed=0)")
    compile(snippet(Path("hub")), "card", "exec")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("digits-ddpm", "digits-ddpm"),
        ("my model", "my-model"),
        ("a--b..c", "a-b.c"),
        ("-.x.git", "x"),
        ("Zürich", "Z-rich"),
        ("...", "ddpm"),
        ("n" * 200, "n" * 96),
    ],
)
def test_the_uploads_name_is_one_that_the_hub_accepts(folder: str, name: str) -> None:
    """By the rules of its own library."""
    assert hub_name(Path("/any") / folder) == name
    validate_repo_id(name)
