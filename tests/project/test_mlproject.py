"""``mlflow run``: the MLproject file agrees with the command line, and the whole way of the data works by it."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from support.common import ROOT

from mlflow_ddpm.cli.main import build_parser
from mlflow_ddpm.core.metrics import METRICS
from mlflow_ddpm.ddpm.config.config import NO_OPTIONS, PROJECT_SETTINGS, Config, from_options, options, run_params

SMALL = "--base-channels 8 --channel-mults 1 --attention-size 0 --sample-steps 2 --eval-per-class 1"


def _project() -> Any:
    return yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))


@pytest.mark.parametrize("entry_point", ["main", "train"])
def test_the_parameters_are_those_that_people_set_with_the_command_lines_defaults(entry_point: str) -> None:
    """Nine of them: every other option goes into ``options``."""
    parameters = _project()["entry_points"][entry_point]["parameters"]
    arguments = build_parser().parse_args(["train"])

    assert list(parameters) == [*PROJECT_SETTINGS, "output_dir", "options"]
    for option in options():
        if option.dest in PROJECT_SETTINGS:
            assert option.type(str(parameters[option.dest]["default"])) == option.default
    assert parameters["output_dir"]["default"] == arguments.output_dir
    assert parameters["options"]["default"] == NO_OPTIONS


def test_the_command_passes_every_parameter_under_its_flag() -> None:
    """None is declared and then dropped; the text of further options comes last and is parsed as options."""
    entry_point = _project()["entry_points"]["main"]
    flags = [f"--{name.replace('_', '-')}={{{name}}}" for name in entry_point["parameters"]]
    words = [word.format(**{n: p["default"] for n, p in entry_point["parameters"].items()}) for word in flags]
    words[-1] = "--options=--blocks 3 --balance classes"
    arguments = build_parser().parse_args(["train", *words])

    assert entry_point["command"].split() == ["python", "-m", "mlflow_ddpm", "train", *flags]
    assert (arguments.blocks, arguments.balance, arguments.seed) == (3, "classes", 0)


def test_the_params_of_a_run_are_at_most_twenty_and_have_the_projects_names() -> None:
    """As typed, so that a run of the command line and one of ``mlflow run`` compare; beside them what auto became."""
    config = from_options({"blocks": 3, "channel_mults": (1, 2), "epochs": 4, "balance": "classes"})
    params = run_params(config, output_dir="auto")

    assert list(params)[:9] == list(_project()["entry_points"]["main"]["parameters"])
    assert len(params) <= 20
    assert params["options"] == "'--balance classes --channel-mults 1,2 --blocks 3'"
    assert (params["epochs"], params["lr"], params["optim.lr"], params["train.batch_size"]) == (
        "4",
        "auto",
        "0.002",
        "64",
    )
    assert run_params(Config(), output_dir="auto")["options"] == NO_OPTIONS


def test_the_publish_entry_point_takes_what_the_command_takes() -> None:
    """Its one required argument has no default here either."""
    told = _project()["entry_points"]["publish"]
    arguments = build_parser().parse_args(["publish", "abc"])

    assert told["parameters"] == {
        "run_id": {"type": "string"},
        "output_dir": {"type": "string", "default": arguments.output_dir},
    }
    assert told["command"] == "python -m mlflow_ddpm publish {run_id} --output-dir {output_dir}"


def test_the_environment_of_mlflow_run_follows_from_pyproject() -> None:
    """python_env.yaml has every dependency of the package, at the version of constraints.txt, and no other."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {line.split("==")[0].lower(): line for line in lines if "==" in line and not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w-]+", dependency)[0].lower() for dependency in project["dependencies"]]  # type: ignore[index]
    environment = yaml.safe_load((ROOT / "python_env.yaml").read_text())

    assert [line.lower() for line in environment["dependencies"]] == [pins[name].lower() for name in names]


def test_constraints_name_every_dependency_that_pyproject_asks_for() -> None:
    """So that the README's commands install what was tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [d for extra in project["optional-dependencies"].values() for d in extra]
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }

    names = {re.match(r"[\w-]+", d)[0].lower().replace("_", "-") for d in asked}  # type: ignore[index]
    assert names <= pinned


def mlflow_run(project: str, *options: str, store: str, **parameters: str) -> subprocess.CompletedProcess[str]:
    """Run a small training by ``mlflow run``, from the current folder, with this interpreter's environment active."""
    command = [sys.executable, "-m", "mlflow", "run", project, *options]
    for name, value in {"epochs": "2", "batch_size": "512", "options": SMALL, **parameters}.items():
        command += ["-P", f"{name}={value}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": store}
    return subprocess.run(command, check=False, timeout=300, env=env, text=True, capture_output=True)


@pytest.mark.slow
def test_mlflow_run_leaves_every_measured_field_once_in_the_store_and_the_tree_among_the_artifacts(
    sqlite_uri: str, tmp_path: Path
) -> None:
    """The store equals the CSV to the last bit; params are mlflow's and ours, side by side.

    Run from another folder: a relative store and a relative output are the caller's, and printed paths are absolute.
    """
    done = mlflow_run(str(ROOT), "--env-manager=local", store="sqlite:///mlflow.db", output_dir="out")
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"report  {tmp_path}/out/training_report.md" in done.stdout

    client = MlflowClient(sqlite_uri)
    (run,) = client.search_runs(["0"])
    with (tmp_path / "out/training_metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    measured = [name for name in rows[0] if name not in ("epoch", "logged_at_ms") and rows[-1][name]]
    for name in measured:
        points = [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
        assert points == [(int(row["epoch"]), float(row[name])) for row in rows if row[name]]
    assert {m.name for m in METRICS} - {"epoch", "gpu_allocated_mb", "gpu_reserved_mb", "gpu_peak_mb"} <= set(measured)
    assert "sample/accuracy" in measured
    assert (run.info.status, run.data.params["epochs"], run.data.params["train.epochs"]) == ("FINISHED", "2", "2")
    tree = {Path(f.path).name for f in client.list_artifacts(run.info.run_id, "metrics") if not f.is_dir}
    assert {"training_metrics.csv", "training_metrics.json", "training_report.md", "training_report.html"} <= tree
    assert len([name for name in tree if name.endswith(".png")]) >= 11


@pytest.mark.slow
def test_mlflow_run_of_a_clone_leaves_its_output_where_the_caller_stands(tmp_path: Path, sqlite_uri: str) -> None:
    """Of a clone that MLflow makes; a relative store is the caller's, paths are absolute."""
    (tmp_path / "project").mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    for name in tracked.decode().split("\0")[:-1]:
        if name.startswith(("mlflow_ddpm/", "MLproject", "python_env")):
            (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "project" / name)
    project, author = str(tmp_path / "project"), ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, check=True, capture_output=True, text=True)
    options = ["--env-manager=local", "--version", commit.stdout.strip()]
    unjudged = SMALL.replace("--eval-per-class 1", "--eval-per-class 0")
    done = mlflow_run(
        f"file://{project}", *options, store="sqlite:///mlflow.db", epochs="1", output_dir="made", options=unjudged
    )

    assert done.returncode == 0, done.stderr[-2000:]
    assert f"report  {tmp_path}/made/training_report.md" in done.stdout
    assert Path("made/training_metrics.csv").is_file()
    assert [run.info.status for run in MlflowClient(sqlite_uri).search_runs(["0"])] == ["FINISHED"]


@pytest.mark.slow
def test_without_its_environment_active_the_command_is_one_line(tmp_path: Path) -> None:
    """As ``mlflow run --env-manager=local`` starts it, with whatever Python comes first in PATH."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    command = [str(tmp_path / "bare/bin/python"), "-m", "mlflow_ddpm", "train"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, env={"PYTHONPATH": ""})

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "activate the environment that mlflow_ddpm is installed in" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("manager", ["virtualenv", "uv"])
def test_mlflow_run_makes_an_environment_of_its_own(manager: str, tmp_path: Path, sqlite_uri: str) -> None:
    """Of python_env.yaml. It installs everything anew, so it runs where MLFLOW_DDPM_ENVIRONMENTS is set."""
    if "MLFLOW_DDPM_ENVIRONMENTS" not in os.environ:
        pytest.skip("takes minutes and a package index: set MLFLOW_DDPM_ENVIRONMENTS=1")
    needed = {"virtualenv": ["pyenv", "virtualenv"], "uv": ["uv"]}[manager]
    if missing := [program for program in needed if not shutil.which(program)]:
        pytest.skip(f"needs {', '.join(missing)}")
    done = mlflow_run(str(ROOT), f"--env-manager={manager}", store=sqlite_uri, output_dir=str(tmp_path / "out"))

    assert done.returncode == 0, done.stderr[-2000:]
