"""Kill a training, or a sync, again and again, and say what was lost; ``test_fault_kill.py`` runs it as a process.

Everything is imported once; each life is a fork of this process, which has no threads, so that a kill costs a tenth of
a second and falls where the seed says: mostly into writes, since the epochs are short.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - what a life needs is imported before the fork
import numpy as np
from mlflow import MlflowClient

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.tracking.sync import sync_directory
from support.store_faults import points_in_store, points_on_disk

EPOCHS = 25
NOWHERE = "http://127.0.0.1:9"


def train(directory: Path, uri: str, step_back: int, pipe: int) -> None:
    """One life: go on where the files say, or a little before; report each epoch whose ``end_epoch`` returned."""
    tracker = MetricsTracker(directory, tracking_uri=uri, resume=True)
    for epoch in range(max(0, tracker.next_epoch - step_back), EPOCHS):
        tracker.start_epoch(epoch)
        tracker.log_batch(1.0 / (epoch + 1), lr=0.1)
        tracker.end_epoch(extra={"fid": float(epoch)} if epoch % 7 == 3 else None)
        os.write(pipe, f"{epoch}\n".encode())
        if epoch % 10 == 5:
            tracker.log_image("grid", np.full((4, 4), epoch, np.uint8), epoch)
    tracker.close(timeout=0.05 if uri == NOWHERE else 30.0)


def live(
    body: Callable[[int], None], seconds: float | None, ready: Callable[[], bool] = lambda: True
) -> tuple[list[int], bool]:
    """Fork a life, kill it some seconds after it is ready; return the epochs it told and whether it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            body(writer)
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    if seconds is not None:
        deadline = time.monotonic() + 30
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as told:
        lines = told.read().split()
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"a life ended with status {status}")
    return [int(line) for line in lines], os.WIFSIGNALED(status)


def whole_rows(directory: Path) -> list[dict[str, str]]:
    """Return the CSV's whole lines as the standard library reads them; a torn last one is no row."""
    path = directory / "training_metrics.csv"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return list(csv.DictReader([line.decode() for line in lines if line.endswith(b"\n")], strict=True))


def check_files(directory: Path, certain: set[int], found: dict[str, int]) -> None:
    """Count what is wrong with the files at the instant of a kill."""
    try:
        rows = whole_rows(directory)
        epochs = [int(row["epoch"]) for row in rows]
        cells = [cell for row in rows for cell in row.values()]
        numbers = [float(cell) for cell in cells if cell]  # raises on what is no number
        document = directory / "training_metrics.json"
        if document.exists():
            json.loads(document.read_bytes(), parse_constant=_refuse)
    except (TypeError, ValueError, csv.Error):
        found["invalid"] += 1
        return
    found["invalid"] += sum(None in row.values() for row in rows) + (len(numbers) < len(rows))
    found["lost"] += len(certain - set(epochs))
    found["duplicated"] += len(epochs) - len(set(epochs))


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def kill_training(args: argparse.Namespace, rng: random.Random) -> dict[str, int]:
    """Kill as often as asked, some times a run, then let each run end, and compare."""
    found = dict.fromkeys(("kills", "runs", "reported", "lost", "duplicated", "invalid", "in_store_wrong"), 0)
    while found["kills"] < args.kills:
        place = Path(f"run{found['runs']}")
        place.mkdir()
        uri = NOWHERE if found["runs"] % 4 else _new_store(place, args.database)
        _kill_run(place / "out", uri, rng, found)
        found["runs"] += 1
        found["lost"] += EPOCHS - len(whole_rows(place / "out"))
        if uri != NOWHERE:
            found["in_store_wrong"] += not store_is_equal(uri, place / "out")
    return found


def _kill_run(out: Path, uri: str, rng: random.Random, found: dict[str, int]) -> None:
    certain: set[int] = set()  # epochs that were reported and that no later life wrote anew
    for seconds in [*(rng.uniform(0.0, 0.3 if uri == NOWHERE else 0.9) for _ in range(3)), None]:
        back = rng.choice((0, 0, 1, 3)) if seconds else 0
        start = max(0, len(whole_rows(out)) - back)
        told, killed = live(partial(train, out, uri, back), seconds)
        certain = {epoch for epoch in certain if epoch < start} | set(told)
        found["kills"] += killed
        found["reported"] += len(told)
        check_files(out, certain, found)


def store_is_equal(uri: str, out: Path) -> bool:
    """Say whether a store has one run, FINISHED, that reads back as the CSV; superseded points may be there, too."""
    from mlflow_ddpm.core.metrics import keep_last_written
    from mlflow_ddpm.storage.csv_file import read_csv
    from mlflow_ddpm.storage.run_search import open_store

    runs = MlflowClient(uri).search_runs(["0"])
    if [run.info.status for run in runs] != ["FINISHED"]:
        return False
    return keep_last_written(open_store(runs[0].info.run_id, uri).read_rows()) == read_csv(out / "training_metrics.csv")


def kill_sync(args: argparse.Namespace, rng: random.Random) -> dict[str, int]:
    """Interrupt the late delivery of 400 rows and three pictures, some kills a run, then let it end, and compare."""
    found = dict.fromkeys(("kills", "runs", "points", "points_wrong", "runs_too_many", "images_wrong"), 0)
    pristine = Path("pristine")
    live(partial(_train_away, pristine), None)
    while found["kills"] < args.kills:
        number = found["runs"]
        place = Path(f"sync{number}")
        shutil.copytree(pristine, place / "out")
        uri = (place.resolve() / "mlruns").as_uri() if number % 2 else _new_store(place, args.database)
        sync = partial(_sync, place / "out", uri)
        # A file store writes a new run file by file, and MLflow reads none whose first file a kill left half written.
        ready = partial(_has_run, place / "out") if number % 2 else lambda: True
        for seconds in [*(rng.uniform(0.05, 0.8) for _ in range(5)), None, None]:
            _, killed = live(sync, seconds, ready)
            found["kills"] += killed
        found["runs"] += 1
        _compare(place / "out", uri, found)
    return found


def _compare(out: Path, uri: str, found: dict[str, int]) -> None:
    client = MlflowClient(uri)
    runs = client.search_runs(["0"])
    found["runs_too_many"] += len(runs) - 1
    disk, store = points_on_disk(out), points_in_store(uri, runs[0].info.run_id)
    found["points"] += sum(map(len, disk.values()))
    found["points_wrong"] += sum(disk.get(key) != store.get(key) for key in {*disk, *store})
    images = [f.path for f in client.list_artifacts(runs[0].info.run_id, "images") if f.path.endswith(".webp")]
    found["images_wrong"] += abs(len(images) - 3) + (runs[0].info.status != "FINISHED")


def _train_away(directory: Path, _: int) -> None:
    tracker = MetricsTracker(directory, tracking_uri=NOWHERE, config={"lr": 0.1})
    for epoch in range(400):
        tracker.start_epoch(epoch)
        tracker.log_batch(1.0 / (epoch + 1), lr=0.1, grad_norm=2.0, batch_size=4)
        tracker.end_epoch()
        if epoch % 150 == 0:
            tracker.log_image("grid", np.zeros((4, 4), np.uint8), epoch)
    tracker.close(timeout=0.05)


def _has_run(directory: Path) -> bool:
    cursor = DeliveryState.load(directory)
    return cursor is not None and cursor.run_id is not None


def _sync(directory: Path, uri: str, _: int) -> None:
    sync_directory(directory, tracking_uri=uri, timeout=60)


def _new_store(place: Path, database: str) -> str:
    shutil.copy(database, place / "mlflow.db")
    return f"sqlite:///{place.resolve() / 'mlflow.db'}"


def main() -> None:
    """Do what the command line asks and print what was found, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("training", "sync"))
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", required=True, help="a sqlite store without runs, to copy")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    rng = random.Random(args.seed)  # noqa: S311 - where kills fall
    found = (kill_training if args.what == "training" else kill_sync)(args, rng)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
