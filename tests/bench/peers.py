"""What other trackers keep: after a SIGKILL, after a resume, of NaN and infinity, and of a credential in the config.

    python tests/bench/peers.py [--steps 500] [--only NAME]

Each tracker runs in a process of its own, with its defaults and offline: MLflow on a sqlite file, W&B in its offline
mode. What is read back is what lies on the disk. Trackers that are not installed are left out:
``pip install wandb trackio`` adds them. Prints one Markdown table; takes a few minutes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

VALUES = {f"metric_{i}": 0.1 * i for i in range(17)}
TOKEN = "hf_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7"  # of that form, and no real one
RUN, PROJECT = "one-run", "peers"
Log = Callable[[int, dict[str, float]], None]
Rows = list[tuple[int, dict[str, Any]]]


def open_ours(*, resume: bool) -> tuple[Log, Callable[[], object]]:
    """Record the values as extras."""
    from mlflow_ddpm import MetricsTracker

    tracker = MetricsTracker("out", config={"hf_token": TOKEN}, resume=resume)

    def log(step: int, values: dict[str, float]) -> None:
        tracker.start_epoch(step)
        tracker.end_epoch(extra=values)

    return log, tracker.close


def open_mlflow(*, resume: bool, synchronous: bool = True) -> tuple[Log, Callable[[], object]]:
    """The fluent interface, as most loops use it."""
    import mlflow

    known = Path("run_id.txt")
    mlflow.start_run(run_id=known.read_text(encoding="utf-8") if resume else None)
    known.write_text(mlflow.active_run().info.run_id, encoding="utf-8")
    if not resume:
        mlflow.log_params({"hf_token": TOKEN})

    def log(step: int, values: dict[str, float]) -> None:
        mlflow.log_metrics(values, step=step, synchronous=synchronous)

    def close() -> None:
        if not synchronous:
            mlflow.flush_async_logging()
        mlflow.end_run()

    return log, close


def open_mlflow_async(*, resume: bool) -> tuple[Log, Callable[[], object]]:
    """MLflow's own queue."""
    return open_mlflow(resume=resume, synchronous=False)


def open_wandb(*, resume: bool) -> tuple[Log, Callable[[], object]]:
    """Offline, under one id."""
    import wandb

    run = wandb.init(mode="offline", project=PROJECT, id=RUN, resume="allow", config={"hf_token": TOKEN})
    return (lambda step, values: run.log(values, step=step)), run.finish


def open_trackio(*, resume: bool) -> tuple[Log, Callable[[], object]]:
    """Its local database."""
    import trackio

    trackio.init(project=PROJECT, name=RUN, resume="allow", config={"hf_token": TOKEN}, embed=False)
    return (lambda step, values: trackio.log(values, step=step)), trackio.finish


def read_ours() -> Rows:
    """Read the CSV with the standard library."""
    import csv

    with Path("out/training_metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [(int(row["epoch"]), row) for row in rows]


def read_mlflow() -> Rows:
    """Read every point from the database, as the run page does."""
    from mlflow import MlflowClient

    run_id, client = Path("run_id.txt").read_text(encoding="utf-8"), MlflowClient()
    points = [p for name in client.get_run(run_id).data.metrics for p in client.get_metric_history(run_id, name)]
    rows: Rows = []
    for moment in sorted({(p.timestamp, p.step) for p in points}):
        rows.append((moment[1], {p.key: p.value for p in points if (p.timestamp, p.step) == moment}))
    return rows


def read_trackio() -> Rows:
    """Read the table ``metrics`` of its database."""
    (path,) = Path(os.environ["TRACKIO_DIR"]).glob("*.db")
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT step, metrics FROM metrics ORDER BY id").fetchall()
    return [(step, json.loads(values)) for step, values in found]


def read_wandb() -> Rows:
    """Read the records of all its files: blocks of 32 KiB, as in LevelDB's log, of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows: Rows = []
    for path in sorted(Path("wandb").glob("offline-run-*/*.wandb")):
        for data in _log_records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                rows.append((record.history.step.num, {name: json.loads(text) for name, text in items.items()}))
    return rows


def _log_records(data: bytes) -> Iterator[bytes]:
    block, header, offset, parts = 32768, 7, 7, b""
    while offset + header <= len(data):
        if block - offset % block < header:
            offset += block - offset % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, offset)
        parts += data[offset + header : offset + header + length]
        offset += header + length
        if offset > len(data) or not kind:
            return
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


TRACKERS = {
    "mlflow_ddpm": (open_ours, read_ours, "mlflow_ddpm"),
    "mlflow": (open_mlflow, read_mlflow, "mlflow"),
    "mlflow, asynchronous": (open_mlflow_async, read_mlflow, "mlflow"),
    "wandb, offline": (open_wandb, read_wandb, "wandb"),
    "trackio": (open_trackio, read_trackio, "trackio"),
}


def child(name: str, what: str, steps: int) -> None:
    """Play one part in the working directory; ``burst`` and ``paced`` end by SIGKILL."""
    start, _, _ = TRACKERS[name]
    log, close = start(resume=what == "second")
    if what in ("burst", "paced"):
        for step in range(steps):
            log(step, VALUES)
            if what == "paced":
                time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    first, last = {"first": (0, 15), "second": (10, 20), "odd": (0, 3)}[what]
    for step in range(first, last):
        log(step, {"value": (1.0, float("nan"), float("inf"))[step] if what == "odd" else 1.0 / (step + 1)})
    close()


def play(name: str, parts: list[str], steps: int, place: Path) -> Path:
    """Run the parts one after the other in a fresh directory, and return it."""
    directory = Path(tempfile.mkdtemp(dir=place))
    env = os.environ | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db",
        "TRACKIO_DIR": str(directory / "trackio"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_SILENT": "true",
    }
    for part in parts:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", name, part, "--steps", str(steps)]
        subprocess.run(command, cwd=directory, env=env, check=False, timeout=300, stdout=subprocess.DEVNULL)
    return directory


def read(name: str, directory: Path) -> Rows:
    """Read back what is on the disk."""
    os.chdir(directory)
    os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{directory}/mlflow.db", "TRACKIO_DIR": f"{directory}/trackio"}
    try:
        return TRACKERS[name][1]()
    except (OSError, ValueError, sqlite3.Error) as error:  # nothing was written, or half of it
        print(f"{name}: {error}", file=sys.stderr)
        return []


def judge(name: str, steps: int, place: Path) -> list[str]:
    """Return one tracker's row of the table."""
    kept = []
    for part in ("burst", "paced"):
        rows = read(name, play(name, [part], steps, place))
        kept.append(len({step for step, values in rows if len(VALUES.keys() & values.keys()) == len(VALUES)}))
    resumed = read(name, play(name, ["first", "second"], steps, place))
    directory = play(name, ["odd"], steps, place)
    odd = [str(values.get("value", "nothing")) for _, values in sorted(read(name, directory), key=lambda row: row[0])]
    clear = any(TOKEN.encode() in path.read_bytes() for path in directory.rglob("*") if path.is_file())
    return [
        name,
        f"{kept[0]} / {kept[1]}",
        str(len(resumed)),
        ", ".join(odd[1:]),
        "in clear" if clear else "hidden",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compare what trackers keep.")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", choices=TRACKERS)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], args.steps)
        return
    print(f"| tracker | whole steps of {args.steps} after SIGKILL, back to back / 10 ms apart", end="")
    print(" | rows for 20 steps, resumed at 10 after 15 | NaN, infinity | credential in the config |")
    print("|---" * 5 + "|")
    with tempfile.TemporaryDirectory() as place:
        for name in [args.only] if args.only else TRACKERS:
            if importlib.util.find_spec(TRACKERS[name][2]):
                print("| " + " | ".join(judge(name, args.steps, Path(place))) + " |", flush=True)
        os.chdir("/")


if __name__ == "__main__":
    main()
