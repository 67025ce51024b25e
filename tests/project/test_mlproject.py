"""``mlflow run``: the MLproject file agrees with the command line, and the whole way of the data works by it."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from support.common import ROOT

from mlflow_ddpm.cli.main import build_parser
from mlflow_ddpm.core.metrics import METRICS
from mlflow_ddpm.ddpm.config.config import options

TYPES = {int: "int", float: "float"}


def _project() -> Any:
    return yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))


@pytest.mark.parametrize("entry_point", ["main", "train"])
def test_parameters_types_and_defaults_are_those_of_the_command_line(entry_point: str) -> None:
    """One place spells them; this file repeats it for MLflow."""
    parameters = _project()["entry_points"][entry_point]["parameters"]

    assert ["output_dir", "download", *(o.dest for o in options())] == list(parameters)
    assert parameters["download"]["default"] == build_parser().parse_args(["train"]).download
    for option in options():
        told = parameters[option.dest]
        assert told["type"] == TYPES.get(type(option.default), "string")
        assert option.type(str(told["default"])) == option.default


def test_the_publish_entry_point_takes_what_the_command_takes() -> None:
    """Its one required argument has no default here either."""
    told = _project()["entry_points"]["publish"]
    arguments = build_parser().parse_args(["publish", "abc"])

    assert told["parameters"] == {
        "run_id": {"type": "string"},
        "output_dir": {"type": "string", "default": arguments.output_dir},
    }
    assert told["command"] == "python -m mlflow_ddpm publish {run_id} --output-dir {output_dir}"


def test_the_command_passes_every_parameter_under_its_flag() -> None:
    """None is declared and then dropped."""
    command = _project()["entry_points"]["main"]["command"]

    assert command.startswith("python -m mlflow_ddpm train --output-dir {output_dir} --download {download} ")
    for option in options():
        assert f"{option.flag} {{{option.dest}}}" in command


def test_the_environments_pin_the_same_versions() -> None:
    """python_env.yaml, for managers that build environments, follows constraints.txt."""
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    pins = {name.lower(): version for name, version in pins.items()}
    environment = yaml.safe_load((ROOT / "python_env.yaml").read_text())["dependencies"]

    assert {name: pins[name] for name in (d.split("==")[0] for d in environment)} == dict(
        d.split("==") for d in environment
    )


def test_constraints_name_every_dependency_that_pyproject_asks_for() -> None:
    """So that the README's commands install what was tested."""
    import tomllib

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
    small = {"epochs": "2", "base_channels": "8", "channel_mults": "1", "attention_size": "0", "batch_size": "512"}
    small |= {"sample_steps": "2", "eval_per_class": "1", "output_dir": str(tmp_path / "out")}
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
