"""Every operation against MLflow servers of several versions: ``python tests/compat/servers.py [VERSION ...]``.

Each server runs in a virtual environment of its own, over sqlite, and the client is that of this interpreter. A table is
printed, and the exit status is the number of operations that failed. ``--cache DIR`` keeps the environments.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]
from support.common import mlflow_server
from support.store_faults import play, points_in_store, points_on_disk

VERSIONS = ("2.9.2", "2.22.5", "3.1.4", "3.4.0", "3.17.2")
_OLD_NEEDS = ("sqlalchemy<2.1", "setuptools<81")  # before 3.5: their own bounds let pip choose what they cannot use
_SMALL_TRAINING = ("--preset", "smoke", "--epochs", "1", "--output-dir", "trained")


def python_of(version: str, cache: Path) -> Path:
    """Return the interpreter of an environment with this MLflow, made if it is not there."""
    python = cache / version / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(cache / version)], check=True)
        old = _OLD_NEEDS if tuple(map(int, version.split(".")[:2])) < (3, 5) else ()
        subprocess.run([str(python), "-m", "pip", "install", "-q", f"mlflow=={version}", *old], check=True)
    return python


def operations(uri: str) -> dict[str, Callable[[], object]]:
    """Return what is tried, in this order; later ones use what earlier ones made."""
    import mlflow_ddpm
    from mlflow_ddpm.tracking.sync import sync_directory

    runs: list[str] = []

    def new_run() -> None:
        import numpy as np

        def pictures(epoch: int) -> None:
            if epoch == -1:
                Path("out/note.txt").write_text("hello", encoding="utf-8")

        tracker = mlflow_ddpm.MetricsTracker("out", tracking_uri=uri, config={"lr": 0.1, "long": "x" * 7000})
        tracker.log_image("samples", np.zeros((8, 8), dtype=np.uint8), 0)
        pictures(-1)
        tracker.log_artifact("out/note.txt")
        tracker.close(timeout=60)
        runs.append(str(play("out", tracking_uri=uri, close_sec=60, epochs=3, resume=True).tracker.run_id))
        compare_points()

    def compare_points() -> None:
        if points_on_disk("out") != points_in_store(uri, runs[0]):
            raise AssertionError("the store and the CSV differ")

    def resume() -> None:
        play("out", tracking_uri=uri, close_sec=60, epochs=5, resume=True)
        compare_points()

    def compare() -> None:
        runs.append(str(play("other", tracking_uri=uri, close_sec=60, epochs=4, tags={"t": "x" * 7000}).tracker.run_id))
        mlflow_ddpm.compare_runs(runs, "compared", tracking_uri=uri)

    def sync() -> None:
        play("late", tracking_uri="http://127.0.0.1:9", close_sec=0.1, epochs=2)
        sync_directory(Path("late"), tracking_uri=uri, timeout=60)

    def train() -> None:
        command = [sys.executable, "-m", "mlflow_ddpm", "train", *_SMALL_TRAINING, "--tracking-uri", uri]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode or "Traceback" in done.stderr:
            raise AssertionError((done.stderr or done.stdout)[-500:])

    return {
        "new run": new_run,
        "resume": resume,
        "history": lambda: mlflow_ddpm.read_history(runs[0], tracking_uri=uri),
        "publish": lambda: mlflow_ddpm.publish_run(runs[0], output_dir="published", tracking_uri=uri),
        "download": lambda: mlflow_ddpm.download_run(runs[0], "downloaded", tracking_uri=uri),
        "compare": compare,
        "sync": sync,
        "train": train,
    }


def try_version(version: str, cache: Path) -> dict[str, str]:
    """Return what became of each operation on a server of this version."""
    python = python_of(version, cache)
    results: dict[str, str] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, chdir(name):
        (Path(name) / "server").mkdir()
        with mlflow_server(Path(name) / "server", python=python) as uri:
            for operation, action in operations(uri).items():
                began = time.monotonic()
                try:
                    action()
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
    with tempfile.TemporaryDirectory() as temporary:
        cache = (options.cache or Path(temporary)).absolute()
        results = {version: try_version(version, cache) for version in options.versions}
    names = list(next(iter(results.values())))
    print("| server | " + " | ".join(names) + " |")
    print("|" + "---|" * (len(names) + 1))
    for version, row in results.items():
        print(f"| {version} | " + " | ".join(row[name].split(":")[0] for name in names) + " |")
    return sum(cell.startswith("FAIL") for row in results.values() for cell in row.values())


if __name__ == "__main__":
    raise SystemExit(main())
