"""Every operation against MLflow servers of several versions: ``python tests/compat/servers.py [VERSION ...]``.

Each server runs in a virtual environment of its own, over sqlite, and the client is that of this interpreter. A table
is printed, and the exit status is the number of operations that failed. ``--cache DIR`` keeps the environments.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]
from support.common import draw_few_plots, mlflow_server
from support.store_faults import play, points_in_store, points_on_disk

import mlflow_ddpm
from mlflow_ddpm.tracking.sync import sync_directory

VERSIONS = ("2.9.2", "2.22.5", "3.1.4", "3.4.0", "3.17.2")
_OLD_NEEDS = ("sqlalchemy<2.1", "setuptools<81")  # before 3.5: their own bounds let pip choose what they cannot use
_SMALL_TRAINING = (
    *("--epochs", "1", "--base-channels", "8", "--channel-mults", "1", "--attention-size", "0", "--batch-size", "512"),
    *("--sample-steps", "2", "--eval-per-class", "0", "--sample-every", "1", "--output-dir", "trained"),
)


def python_of(version: str, cache: Path) -> Path:
    """Return the interpreter of an environment with this MLflow, made if it is not there; ours if it has it."""
    if importlib.metadata.version("mlflow") == version:
        return Path(sys.executable)
    python = cache / version / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache / version)], check=True)
        old = _OLD_NEEDS if tuple(map(int, version.split(".")[:2])) < (3, 5) else ()
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"mlflow=={version}", *old], check=True)
    return python


class Operations:
    """What is tried on one server, in this order; later ones use what earlier ones made."""

    def __init__(self, uri: str) -> None:
        self.uri, self.runs, self.published = uri, list[str](), set[str]()

    def new_run(self) -> None:
        """Rows, a param and tags that are too long for some, a picture and a file."""
        config = {"lr": 0.1, "long": "x" * 7000}
        tracker = mlflow_ddpm.MetricsTracker("out", tracking_uri=self.uri, config=config, tags={"long": "x" * 7000})
        tracker.log_image("samples", np.zeros((8, 8), dtype=np.uint8), 0)
        Path("out/note.txt").write_text("hello", encoding="utf-8")
        tracker.log_artifact("out/note.txt")
        tracker.close(timeout=60)
        self.runs.append(str(play("out", tracking_uri=self.uri, close_sec=60, epochs=3, resume=True).tracker.run_id))
        self._compare_points()

    def resume(self) -> None:
        """Two more epochs."""
        play("out", tracking_uri=self.uri, close_sec=60, epochs=5, resume=True)
        self._compare_points()

    def history(self) -> None:
        """Every epoch is read back."""
        assert len(mlflow_ddpm.read_history(self.runs[0], tracking_uri=self.uri)) == 5

    def publish(self) -> None:
        """All files of the run are uploaded."""
        published = mlflow_ddpm.publish_run(self.runs[0], output_dir="published", tracking_uri=self.uri)
        self.published = {path.name for path in published.files}
        assert published.uploaded

    def download(self) -> None:
        """And fetched."""
        files = mlflow_ddpm.download_run(self.runs[0], "downloaded", tracking_uri=self.uri).files
        assert {"training_dashboard.png", *self.published} <= {path.name for path in files}

    def compare(self) -> None:
        """With a second run."""
        self.runs.append(str(play("other", tracking_uri=self.uri, close_sec=60, epochs=4).tracker.run_id))
        mlflow_ddpm.compare_runs(self.runs, save_dir="compared", tracking_uri=self.uri)

    def sync(self) -> None:
        """A run that never reached a store."""
        play("late", tracking_uri="http://127.0.0.1:9", close_sec=0.1, epochs=2)
        sync_directory(Path("late"), tracking_uri=self.uri, timeout=60)

    def train(self) -> None:
        """The whole command line, the model included."""
        command = [sys.executable, "-m", "mlflow_ddpm", "train", *_SMALL_TRAINING, "--tracking-uri", self.uri]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        print(done.stderr)
        assert done.returncode == 0, done.stderr[-500:]
        assert "Traceback" not in done.stderr

    def _compare_points(self) -> None:
        assert points_on_disk("out") == points_in_store(self.uri, self.runs[0]), "the store and the CSV differ"


NAMES = ("new_run", "resume", "history", "publish", "download", "compare", "sync", "train")


def try_version(version: str, cache: Path) -> dict[str, str]:
    """Return what became of each operation on a server of this version."""
    python = python_of(version, cache)
    results: dict[str, str] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, chdir(name):
        (Path(name) / "server").mkdir()
        with mlflow_server(Path(name) / "server", python=python) as uri:
            operations = Operations(uri)
            for operation in NAMES:
                began = time.monotonic()
                try:
                    getattr(operations, operation)()
                    results[operation] = f"ok {time.monotonic() - began:.0f} s"
                except Exception as error:  # noqa: BLE001 - a row of the table
                    line = " ".join(str(error).split())[:400]
                    results[operation] = f"FAIL {type(error).__name__}: {line}"
                print(f"{version} {operation}: {results[operation]}", flush=True)
    return results


def main() -> int:
    """Try the versions asked for and print the table; return how many operations failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", nargs="*", default=VERSIONS)
    parser.add_argument("--cache", type=Path, help="folder that keeps the environments")
    options = parser.parse_args()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    draw_few_plots()
    with tempfile.TemporaryDirectory() as temporary:
        cache = (options.cache or Path(temporary)).absolute()
        results = {version: try_version(version, cache) for version in options.versions}
    print("| server | " + " | ".join(NAMES) + " |")
    print("|" + "---|" * (len(NAMES) + 1))
    for version, row in results.items():
        print(f"| {version} | " + " | ".join(row[name].split(":")[0] for name in NAMES) + " |")
    return sum(cell.startswith("FAIL") for row in results.values() for cell in row.values())


if __name__ == "__main__":
    raise SystemExit(main())
