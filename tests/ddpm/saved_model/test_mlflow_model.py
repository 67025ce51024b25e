"""The logged MLflow model: it samples wherever MLflow loads it, and it is few files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import requests
from mlflow import MlflowClient
from support.pipeline import NAMES, small_model

from mlflow_ddpm import load_model
from mlflow_ddpm.ddpm.saved_model.mlflow_model import log_mlflow_model
from mlflow_ddpm.ddpm.saved_model.model_files import save_model

# MLflow warns so about a class of its own, when it is first imported.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")]

# The package is found in a zip file on the path alone, as where it is not installed.
_ELSEWHERE = """
import sys
from importlib.machinery import PathFinder

class OnlyZip:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "mlflow_ddpm":
            return None
        spec = PathFinder.find_spec(name, [place for place in sys.path if place.endswith(".zip")])
        if spec is None:
            raise ModuleNotFoundError(name)
        return spec

sys.meta_path.insert(0, OnlyZip)
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
images = model.predict(pd.DataFrame({"class": ["b", "A"]}), params={"seed": 7})
import mlflow_ddpm.tracker  # the rest of the package is there, too
print(mlflow_ddpm.__file__, images.tolist(), sep="\\n")
"""


@pytest.fixture
def logged(tmp_path: Path, sqlite_uri: str) -> Path:
    """The folder of a small model that was logged and fetched again."""
    save_model(tmp_path / "run", *small_model(), NAMES)
    run = MlflowClient(sqlite_uri).create_run("0")
    uri = log_mlflow_model(run.info.run_id, tmp_path / "run", epoch=0, tracking_uri=sqlite_uri)
    mlflow.set_tracking_uri(sqlite_uri)
    return Path(mlflow.artifacts.download_artifacts(str(uri), dst_path=str(tmp_path / "got")))


def expected(logged: Path) -> Any:
    """The images of the tests, drawn by the package's own ``load_model``."""
    return load_model(logged).sample(["b", "A"], seed=7)


def test_it_samples_where_the_package_is_not_installed(logged: Path, tmp_path: Path) -> None:
    """From the copy in the model: one zip file and a loader, not a file for each module."""
    files = sorted(path.name for path in (logged / "code").rglob("*") if path.is_file() and path.suffix != ".pyc")
    done = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(logged)], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    where, images = done.stdout.splitlines()[-2:]

    assert files == ["mlflow_ddpm.zip", "mlflow_ddpm_model.py"]
    assert len([path for path in logged.rglob("*") if path.is_file() and path.suffix != ".pyc"]) <= 14
    assert "mlflow_ddpm.zip" in where
    np.testing.assert_array_equal(np.array(json.loads(images)), expected(logged))


def test_mlflow_models_predict_and_serve_draw_classes(logged: Path, tmp_path: Path) -> None:
    """By MLflow's own commands: classes in, images out."""
    asked = {"dataframe_split": {"columns": ["class"], "data": [["b"], ["A"]]}, "params": {"seed": 7}}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-m", "mlflow", "models"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path}
    options = ["--model-uri", str(logged), "--env-manager", "local"]
    output = ["--input-path", str(tmp_path / "asked.json"), "--output-path", str(tmp_path / "made.json")]
    subprocess.run([*command, "predict", *options, *output], check=True, capture_output=True, timeout=300, env=env)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [*command, "serve", *options, "--port", str(port)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            answer = _ask(f"http://127.0.0.1:{port}/invocations", asked)
        finally:
            server.terminate()

    for images in (json.loads((tmp_path / "made.json").read_text())["predictions"], answer["predictions"]):
        np.testing.assert_array_equal(np.array(images), expected(logged))


def _ask(address: str, asked: dict[str, Any]) -> Any:
    deadline = time.monotonic() + 300
    while True:
        try:
            answer = requests.post(address, json=asked, timeout=60)
            answer.raise_for_status()
            return answer.json()
        except requests.ConnectionError:  # it is not up yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
