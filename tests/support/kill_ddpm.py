"""Kill ``mlflow-ddpm train`` again and again, and compare what it comes to; ``test_ddpm_resume.py`` runs it.

A life is a fork of this process, which has imported everything and has no threads, running the real command line; some
are whole processes. It is killed after a seeded time, or at the sight of an unfinished checkpoint, or of a new row.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - what a life needs is imported before the fork
import torch

import mlflow_ddpm.plots
import mlflow_ddpm.publishing.publish  # noqa: F401
from mlflow_ddpm.cli.main import build_parser
from mlflow_ddpm.cli.main import main as command_line
from mlflow_ddpm.ddpm.config.config import from_options, options
from mlflow_ddpm.ddpm.train import train
from support.common import draw_few_plots
from support.kill_trials import store_is_equal

EPOCHS = 12
ARGUMENTS = [
    *("train", "--epochs", str(EPOCHS), "--batch-size", "500", "--image-size", "8", "--base-channels", "16"),
    *("--timesteps", "20", "--sample-steps", "2", "--sample-every", "5", "--eval-per-class", "0", "--device", "cpu"),
]
Trigger = Callable[[Path], bool]


def after(seconds: float) -> Trigger:
    """Kill when a life is so old."""
    end = time.monotonic() + seconds
    return lambda _: time.monotonic() >= end


def at_checkpoint(_: Path) -> Trigger:
    """Kill at the sight of a checkpoint that is being written."""
    return lambda out: any(path.name.endswith(".tmp") for path in entries(out / "checkpoints"))


def at_row(out: Path) -> Trigger:
    """Kill when a row is on disk and its checkpoint is not, one epoch into the life."""
    before = newest(out)
    return lambda out: size(out / "training_metrics.csv") - 2 > newest(out) > before


def newest(out: Path) -> int:
    """Return the epoch of the newest checkpoint, -1 if there is none."""
    return max((int(path.stem[-6:]) for path in entries(out / "checkpoints") if path.suffix == ".pt"), default=-1)


def entries(directory: Path) -> list[Path]:
    """Return what is in a directory, nothing if there is none."""
    with contextlib.suppress(OSError):
        return list(directory.iterdir())
    return []


def size(path: Path) -> int:
    """Return the number of lines of a file, 0 if there is none."""
    with contextlib.suppress(OSError):
        return path.read_bytes().count(b"\n")
    return 0


def live(place: Path, trigger: Trigger | None, *, whole_process: bool = False) -> bool:
    """Run the command in ``place``; return whether it was killed before it ended by itself."""
    return watch(_spawn(place) if whole_process else _fork(place, command_line), place, trigger)


def watch(pid: int, place: Path, trigger: Trigger | None) -> bool:
    """Wait for a life; kill it when the trigger says so."""
    while True:
        ended, status = os.waitpid(pid, 0 if trigger is None else os.WNOHANG)
        if ended:
            break
        if trigger is not None and trigger(place / "out"):
            os.kill(pid, signal.SIGKILL)
            trigger = None
        time.sleep(0.0002)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"a life ended with status {status}: {(place / 'log').read_text()[-2000:]}")
    return os.WIFSIGNALED(status)


def _arguments(place: Path) -> list[str]:
    return [*ARGUMENTS, "--output-dir", str(place / "out"), "--tracking-uri", (place / "store").resolve().as_uri()]


def undisturbed(arguments: list[str]) -> int:
    """Train as the command does, without plots, which would only take time."""
    args = build_parser().parse_args(arguments)
    config = from_options({o.dest: getattr(args, o.dest) for o in options()})
    train(config, output_dir=args.output_dir, tracking_uri=args.tracking_uri)
    return 0


def _fork(place: Path, body: Callable[[list[str]], int]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            log = os.open(place / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            status = body(_arguments(place))
        finally:
            os._exit(status)
    return child


def _spawn(place: Path) -> int:
    with (place / "log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "mlflow_ddpm", *_arguments(place)], stdout=log, stderr=log).pid


def at_publishing(_: Path) -> Trigger:
    """Kill as soon as a plot is there: training has ended, the post-run step has not."""
    return lambda out: (out / "loss_linear.png").exists()


def triggers(rng: random.Random, out: Path, training_sec: float, hit: set[str]) -> Iterator[Trigger | None]:
    """Yield how each life of a run ends: at a random time, in a checkpoint, after a row, at last by itself.

    A moment that was missed is tried once more; ``hit`` names those that were not.
    """
    moments: list[tuple[str, Callable[[], Trigger]]] = [
        ("by time", lambda: after(rng.uniform(0.0, training_sec / 3))),
        ("in_a_checkpoint", lambda: at_checkpoint(out)),
        ("between_row_and_checkpoint", lambda: at_row(out)),
    ]
    rng.shuffle(moments)
    for name, trigger in moments * 2:
        if name not in hit:
            yield trigger()
    yield at_publishing(out)
    yield None


def bits(state: Any) -> Any:
    """Turn tensors into bytes, so that == compares every bit."""
    if isinstance(state, torch.Tensor):
        return state.contiguous().numpy().tobytes()
    if isinstance(state, Mapping):
        return {key: bits(value) for key, value in state.items()}
    return [bits(value) for value in state] if isinstance(state, list | tuple) else state


def model(place: Path) -> Any:
    """Return every bit of the last checkpoint: parameters, average, optimiser, step and settings."""
    path = place / "out" / "checkpoints" / f"checkpoint_{EPOCHS - 1:06d}.pt"
    return bits(torch.load(path, map_location="cpu", weights_only=True))


def rows(place: Path) -> list[dict[str, str]]:
    """Return the CSV's rows but for times and rates."""
    with (place / "out" / "training_metrics.csv").open(newline="", encoding="utf-8") as file:
        told = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.endswith(("_sec", "_ms", "_seconds"))} for row in told]


def files(place: Path) -> dict[str, bytes]:
    """Return the sample grids and the model for others to use."""
    found = [*(place / "out" / "samples").iterdir(), *(place / "out" / "model").iterdir()]
    return {path.name: path.read_bytes() for path in found}


def run_killed(place: Path, rng: random.Random, training_sec: float, found: dict[str, int], *, first: bool) -> None:
    """Let one run die as often as :func:`triggers` says, and count where the kills fell."""
    out, hit = place / "out", set[str]()
    for number, trigger in enumerate(triggers(rng, out, training_sec, hit)):
        if not live(place, trigger, whole_process=first and number == 0):
            break
        found["kills"] += 1
        hit |= {"by time"} | _moments(out)
    for name in hit & found.keys():
        found[name] += 1


def _moments(out: Path) -> set[str]:
    """Name the moments in which a life was killed that left these files."""
    unfinished = any(path.suffix == ".tmp" for path in entries(out / "checkpoints"))
    ahead = size(out / "training_metrics.csv") - 2 > newest(out)
    publishing = (out / "loss_linear.png").exists()
    told = {"in_a_checkpoint": unfinished, "between_row_and_checkpoint": ahead, "while_publishing": publishing}
    return {name for name, seen in told.items() if seen}


def main() -> None:
    """Do what the command line asks and print what was found, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    draw_few_plots()
    rng = random.Random(args.seed)  # noqa: S311 - where kills fall
    found = dict.fromkeys(("kills", "in_a_checkpoint", "between_row_and_checkpoint", "while_publishing"), 0)
    found |= dict.fromkeys(("models_differ", "rows_differ", "files_differ", "store_differs"), 0)
    whole = Path("whole")
    whole.mkdir()
    began = time.monotonic()
    watch(_fork(whole, undisturbed), whole, None)
    seconds = time.monotonic() - began
    for number in range(args.runs):
        place = Path(f"run{number}")
        place.mkdir()
        run_killed(place, rng, seconds, found, first=number == 0)
        found["models_differ"] += model(place) != model(whole)
        found["rows_differ"] += rows(place) != rows(whole)
        found["files_differ"] += files(place) != files(whole)
        found["store_differs"] += not store_is_equal((place / "store").resolve().as_uri(), place / "out")
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
