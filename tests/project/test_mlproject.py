"""``mlflow run``: the MLproject file agrees with the command line, and the whole way of the data works by it."""

from __future__ import annotations

import csv
import os
import re
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
from mlflow_ddpm.ddpm.config.config import Config, from_options, options
from mlflow_ddpm.ddpm.config.params import NO_OPTIONS, PROJECT_SETTINGS, run_params

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


@pytest.mark.slow
def test_mlflow_run_leaves_every_measured_field_once_in_the_store_and_the_tree_among_the_artifacts(
    sqlite_uri: str, tmp_path: Path
) -> None:
    """The store equals the CSV to the last bit; params are mlflow's and ours, side by side."""
    small = {"epochs": "2", "batch_size": "512", "output_dir": str(tmp_path / "out"), "options": SMALL}
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "--env-manager=local"]
    for name, value in small.items():
        command += ["-P", f"{name}={value}"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        command, check=True, timeout=300, env={**os.environ, "PATH": path, "MLFLOW_TRACKING_URI": sqlite_uri}
    )

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
    assert len(tree) == 15  # CSV, JSON, the report twice, eleven plots
