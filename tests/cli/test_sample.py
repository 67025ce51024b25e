"""``mlflow-ddpm sample``: from an output directory, from a run, and from what is neither."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from support.pipeline import NAMES, small_model

from mlflow_ddpm import load_model
from mlflow_ddpm.cli.main import main
from mlflow_ddpm.ddpm.config.config import from_options
from mlflow_ddpm.ddpm.saved_model.model_files import save_model
from mlflow_ddpm.ddpm.train import prepare, train, train_with
from mlflow_ddpm.ddpm.training.checkpoint import load_newest
from mlflow_ddpm.ddpm.training.distributed import Processes
from mlflow_ddpm.tracker import MetricsTracker

torch.set_num_threads(1)

TINY: dict[str, Any] = {
    "base_channels": 8,
    "channel_mults": (1,),
    "image_size": 8,
    "attention_size": 0,
    "batch_size": 600,
    "epochs": 1,
    "sample_every": 0,
    "sample_steps": 2,
    "eval_per_class": 0,
    "device": "cpu",
}


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    """An output directory with a model of the classes A, b and 3."""
    save_model(tmp_path / "run", *small_model(), NAMES)
    return tmp_path / "run"


def test_the_picture_has_a_row_for_each_class_that_was_named(
    output_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In their order; and the same command again writes the same bytes."""
    command = ["sample", str(output_dir), "--classes", "3, A", "--per-class", "4", "--seed", "5", "-o"]
    statuses = [main([*command, name]) for name in ("one.png", "two.png")]
    with Image.open("one.png") as picture:
        pixels = np.asarray(picture)
    drawn = load_model(output_dir).sample(["3", "A"], per_class=4, seed=5)

    assert [0, 0] == statuses
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    height, width = pixels.shape
    assert capsys.readouterr().out.splitlines()[0] == f"one.png: 8 images of 2 classes, {width} x {height} pixels"
    scale = (height - 2) // (2 * 18)  # a line above each row; a margin around each image
    top = pixels[1 : 1 + 18 * scale : scale, -17 * scale :: scale][1:17, :16]
    np.testing.assert_array_equal(drawn[3], top)


def test_a_run_in_the_store_draws_the_same_picture_as_its_directory(output_dir: Path, sqlite_uri: str) -> None:
    """What the tracker logs at its end is enough, on a machine that has nothing else."""
    with MetricsTracker(output_dir, tracking_uri=sqlite_uri) as tracker:
        tracker.start_epoch(0)
        tracker.end_epoch()
    logged = {f.path for f in MlflowClient(sqlite_uri).list_artifacts(str(tracker.run_id), "model")}
    for source, name in ((output_dir, "disk.png"), (tracker.run_id, "store.png")):
        assert main(["sample", str(source), "--per-class", "1", "--tracking-uri", sqlite_uri, "-o", name]) == 0

    assert logged == {"model/config.json", "model/model.safetensors"}
    assert Path("disk.png").read_bytes() == Path("store.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--classes", "A,9"], 2, "no class 9; the model knows A, b, 3"),
        (["--steps", "50"], 2, "steps must be <= 20, got 50"),
        (["-o", "grid.jpg"], 2, "--output must be a name that ends in .png, got grid.jpg"),
        (["-o", "gone/grid.png"], 2, "--output must be a file in a directory that exists"),
        (["-o", "folder.png"], 2, "--output must be a file in a directory that exists"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    output_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    """And leaves no file."""
    Path("folder.png").mkdir()
    before = sorted(Path().rglob("*"))

    assert main(["sample", str(output_dir), *arguments]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlflow-ddpm: error: ")
    assert message in line
    assert before == sorted(Path().rglob("*"))


def test_a_run_without_a_model_and_no_run_at_all_are_told_apart(
    sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first lacks the files, the second is not in the store."""
    run_id = MlflowClient(sqlite_uri).create_run("0").info.run_id
    capsys.readouterr()  # what MLflow itself prints
    statuses = [main(["sample", source, "--tracking-uri", sqlite_uri]) for source in (run_id, "0" * 32)]
    without, missing = capsys.readouterr().err.splitlines()

    assert [1, 1] == statuses
    assert f"run {run_id} has no model among its artifacts: expected model/model.safetensors" in without
    assert "0" * 32 in missing
    assert "no model" not in missing


@pytest.mark.slow
def test_a_training_leaves_the_averaged_weights_even_if_it_was_killed_before_it_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of the last checkpoint's average; with nothing left to train the files are made all the same."""
    config, alone = from_options(TINY).resolve(), Processes(0, 1, torch.device("cpu"))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with MetricsTracker(tmp_path / "notes") as inert:  # as on every rank but the first
        train_with(inert, prepare(config, alone, tmp_path), tmp_path)
        first = [path.read_bytes() for path in sorted((tmp_path / "model").iterdir())]
        for path in (tmp_path / "model").iterdir():
            path.unlink()
        train_with(inert, prepare(config, alone, tmp_path), tmp_path)
    checkpoint = load_newest(tmp_path / "checkpoints")

    assert first == [path.read_bytes() for path in sorted((tmp_path / "model").iterdir())]
    assert checkpoint is not None
    for name, tensor in load_model(tmp_path).unet.state_dict().items():
        assert torch.equal(tensor, checkpoint.state["trainer"]["ema"]["model"][name])


@pytest.mark.slow
def test_the_run_page_has_a_model_that_loads_without_pickle(
    tmp_path: Path, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``mlflow-ddpm train`` logs it when the run is over; mlflow.pytorch gives back the same predictions."""
    import mlflow.pytorch  # takes 5 s, as it brings Lightning

    options = [f"--{key.replace('_', '-')}={value}" for key, value in (TINY | {"channel_mults": "1"}).items()]
    command = [sys.executable, "-m", "mlflow_ddpm", "train", "--output-dir", "out", *options]
    done = subprocess.run(
        [*command, "--tracking-uri", sqlite_uri], check=True, capture_output=True, text=True, timeout=300
    )
    client = MlflowClient(sqlite_uri)
    (run,) = client.search_runs(["0"])
    (logged,) = client.search_logged_models(["0"])
    mlflow.set_tracking_uri(sqlite_uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")  # MLflow then looks for pickles, and refuses
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{logged.model_id}", dst_path=str(tmp_path / "got")))
    with zipfile.ZipFile(folder / "data/model.pt2") as archive:
        pickles = [name for name in archive.namelist() if name.endswith((".pkl", ".pickle"))]
    x_t, timestep, labels = torch.randn(5, 1, 8, 8), torch.arange(5), torch.arange(5)

    assert f"models:/{logged.model_id}" in done.stdout
    assert (logged.source_run_id, logged.name) == (run.info.run_id, "unet")
    assert run.info.status == "FINISHED"
    assert [] == pickles
    torch.testing.assert_close(
        mlflow.pytorch.load_model(str(folder))(x_t, timestep, labels),
        load_model(tmp_path / "out").unet(x_t, timestep, labels),
    )
    points = client.get_metric_history(run.info.run_id, "loss_mean")
    assert len(points) == 1  # linking it to the model has not doubled it
    assert done.stderr.count("\n") == 1, done.stderr  # the epoch's line, and no warning
    assert json.loads((tmp_path / "out/model/config.json").read_text())["trained_on"] == "digits"


@pytest.mark.slow
def test_a_kill_while_the_model_is_logged_is_made_up_for_by_the_same_command(sqlite_uri: str) -> None:
    """The closing words are out by then; once the model is there, too, the run is done with."""
    options = [f"--{key.replace('_', '-')}={value}" for key, value in (TINY | {"channel_mults": "1"}).items()]
    command = [sys.executable, "-u", "-m", "mlflow_ddpm", "train", "--output-dir", "out", *options]
    command += ["--tracking-uri", sqlite_uri]
    client = MlflowClient(sqlite_uri)

    def ready() -> list[str]:
        return [model.name for model in client.search_logged_models(["0"]) if model.status == "READY"]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as killed:
        next(line for line in killed.stdout or () if line.startswith("result "))  # of the overview, which comes last
        killed.kill()
    before = ready()
    codes = [subprocess.run(command, check=False, capture_output=True, timeout=300).returncode for _ in range(2)]

    assert (before, ready()) == ([], ["unet"])
    assert codes == [0, 2]  # the second finds nothing left to do


def test_a_library_call_returns_a_model_that_can_be_used(tmp_path: Path, sqlite_uri: str) -> None:
    """``train`` and then ``load_model``, without a word of MLflow in between."""
    train(from_options(TINY), output_dir=tmp_path / "run", tracking_uri=sqlite_uri)

    assert load_model(tmp_path / "run").sample([3, 1, 4]).shape == (3, 8, 8)
