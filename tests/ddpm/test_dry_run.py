"""``train --dry-run``: what a training would be, and everything that is in its way, with nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from support.common import ROOT

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.cli.main import main
from mlflow_ddpm.ddpm.config.config import from_options
from mlflow_ddpm.ddpm.config.fields import PRESETS
from mlflow_ddpm.ddpm.output_dir import is_same_finished_run, mark_published
from mlflow_ddpm.ddpm.train import train
from mlflow_ddpm.ddpm.training.trainer import build_model
from mlflow_ddpm.storage.layout import LOCK_NAME

PAGE = (ROOT / "docs" / "emnist.md").read_text(encoding="utf-8")
SMALL: dict[str, Any] = {"image_size": 8, "base_channels": 8, "batch_size": 400, "epochs": 1, "timesteps": 20}
SMALL |= {"sample_steps": 2, "sample_every": 0, "eval_per_class": 0}


def flags(values: dict[str, Any]) -> list[str]:
    """The settings as they are typed."""
    return [text for name, value in values.items() for text in ("--" + name.replace("_", "-"), str(value))]


def _times() -> dict[Path, int]:
    """When each file was written; that of the lock is empty, and whoever tries the lock may touch it."""
    return {path: path.stat().st_mtime_ns for path in Path().rglob("*") if path.is_file() and path.name != LOCK_NAME}


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, str], list[str]]:
    """Status, facts by subject, and problems; everything under the working directory must be as before."""
    before = _times()
    status = main(["train", "--dry-run", *arguments])
    told = capsys.readouterr()
    assert before == _times()
    facts = {line[:9].strip(): line[9:] for line in told.out.splitlines() if line[:1].strip()}
    return status, facts, [line for line in told.err.splitlines() if line.startswith("problem: ")]


def test_the_plan_says_what_the_training_will_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty directory, which stays empty; parameters and steps are those that the run then has."""
    status, facts, problems = plan(capsys, *flags(SMALL))
    assert list(Path().iterdir()) == []
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    result = train(from_options(SMALL), output_dir="out", tracking_uri=(Path.cwd() / "store").as_uri())

    assert (status, problems) == (0, [])
    assert facts["data"].startswith("digits: 1,500 images of 10 classes to train on, 297 held out, seen at 8x8")
    assert facts["model"] == f"preset laptop: {result.parameters:,} parameters"
    assert facts["steps"] == "4 an epoch of batches of 400, 4 in 1 epoch"
    assert facts["output"] == "runs/digits, which will be made"
    assert facts["store"].endswith("mlflow.db, which will be made")
    assert facts["device"] == "cpu, 1 thread, 1 process"
    assert "MiB a process" in facts["memory"]
    assert "dir data  balance none" in facts["settings"]


def test_a_databases_file_is_told_from_its_options(sqlite_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is there is opened, one that is not would be made."""
    MlflowClient(sqlite_uri).get_experiment("0")
    there, new = f"{sqlite_uri}?timeout=5", f"sqlite:///{Path.cwd()}/new.db?timeout=5"

    assert plan(capsys, *flags(SMALL), "--tracking-uri", there)[1]["store"] == f"{there}: experiment Default"
    assert plan(capsys, *flags(SMALL), "--tracking-uri", new)[1]["store"] == f"{new}, which will be made"


def test_every_problem_gets_a_line_of_its_own(sqlite_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Data, device, output directory and store at once; one line at the end, and the status of a failure."""
    MlflowClient(sqlite_uri).delete_experiment(MlflowClient(sqlite_uri).create_experiment("gone"))
    Path("file").write_text("x")
    status, _, problems = plan(
        capsys,
        *("--data", "emnist-letters", "--data-dir", "no/where", "--device", "cuda", "--output-dir", "file/out"),
        *("--tracking-uri", sqlite_uri, "--experiment-name", "gone"),
    )

    assert status == 1
    assert [problem.split()[1:4] for problem in problems] == [
        ["--device", "is", "cuda,"],
        ["expected", "the", "official"],
        ["file", "is", "a"],
        ["experiment", "gone", "in"],
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tracking-uri", "http://127.0.0.1:9"], "MLflow at http://127.0.0.1:9 is unavailable: connection refused"),
        (["--tracking-uri", "sqlite:///no/such/folder/mlflow.db"], "no/such/folder cannot be written"),
        (["--batch-size", "90000000"], "choose a smaller --batch-size or --preset"),
        (["--output-dir", "done"], "done holds the finished run"),
        (["--output-dir", "broken", "--lr", "0.5"], "--lr must be 0.002 to continue from"),
    ],
)
def test_what_would_stop_a_training_stops_its_plan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    """A store that is away, one that cannot be made, too little memory, a directory of another run."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    if "--output-dir" in arguments:
        directory = arguments[1]
        train(from_options(SMALL), output_dir=directory, tracking_uri=(Path.cwd() / "store").as_uri())
        if directory == "broken":  # cut off
            cursor = Path(directory, ".delivery.json")
            cursor.write_text(json.dumps(json.loads(cursor.read_text()) | {"status": "RUNNING"}))
        else:
            mark_published(Path(directory))
    status, _, problems = plan(capsys, *flags(SMALL), *arguments)

    assert status == 1
    assert len(problems) == 1
    assert says in problems[0]


@pytest.mark.parametrize(("config", "same"), [({"data": "a text"}, False), (None, True)])
def test_a_finished_run_of_the_same_settings_is_recognised(sqlite_uri: str, config: Any, same: bool) -> None:  # noqa: FBT001
    """Also if one of them reads as a credential, which the run's JSON hides; anybody's config may lie there."""
    ours = from_options(SMALL | {"data_dir": "/data/token=a1b2c3d4/emnist"})
    MetricsTracker("out", config=config or ours.as_dict(), tracking_uri=sqlite_uri).close()

    assert is_same_finished_run(Path("out"), ours) is same


def test_a_run_to_go_on_with_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From which epoch on; and of a run of the store, which."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (Path.cwd() / "store").as_uri()
    train(from_options(SMALL), output_dir="out", tracking_uri=uri)
    arguments = flags(SMALL | {"epochs": 3})
    status, facts, _ = plan(capsys, *arguments, "--output-dir", "out", "--resume", "--tracking-uri", uri)

    assert status == 0
    assert facts["output"] == "out, continuing after epoch 0 (1 of 3)"
    assert facts["store"] == f"{uri}: experiment Default"


@pytest.mark.parametrize("preset", PRESETS)
def test_the_docs_table_of_presets_is_that_of_the_code(preset: str) -> None:
    """Parameters, batch, epochs and learning rate on EMNIST."""
    config = from_options({"preset": preset, "data": "emnist-byclass"}).resolve()
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_model(config, 62).parameters())
    sizes = f"{parameters / 1e6:.1f} M | {config.train.batch_size} | {config.train.epochs} | {config.optim.lr:g} |"

    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{preset}` |")]
    assert row.endswith(sizes)


MEASURE = """
import json, sys, torch
from mlflow_ddpm.ddpm.config.config import from_options
from mlflow_ddpm.ddpm.data.loading import load_dataset
from mlflow_ddpm.ddpm.training.distributed import Processes
from mlflow_ddpm.ddpm.training.trainer import Trainer
from mlflow_ddpm.ddpm.training.memory_estimate import estimate_memory
torch.set_num_threads(1)
def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
config = from_options(json.loads(sys.argv[1])).resolve()
data, cpu = load_dataset(config.data).train, torch.device("cpu")
before = kib("VmRSS")
batches = Trainer(config, data, 10, Processes(0, 1, cpu)).train_epoch(0)
next(batches), next(batches), next(batches)
print((kib("VmHWM") - before) * 1024, estimate_memory(config, 10, 0, processes=1, device=cpu).total)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("values", [{"batch_size": 400}, {"preset": "gpu", "batch_size": 16}])
def test_the_memory_expected_is_the_memory_taken(values: dict[str, Any]) -> None:
    """Within a quarter of the peak of three steps, for two sizes, each in a process of its own."""
    command = [sys.executable, "-c", MEASURE, json.dumps(values)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, env=env)
    measured, expected = map(int, done.stdout.split())

    assert expected == pytest.approx(measured, rel=0.25)
