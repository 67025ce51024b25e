"""The loops that people already have: how many lines the tracker adds, and whether its numbers are those of the loop.

``pytest -n0 -s -m slow tests/integrations/test_public_loops.py`` prints the table.
"""

from __future__ import annotations

import csv
import inspect
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support import public_loops
from support.common import ROOT
from support.public_loops import EVERY, STEPS
from support.reference_loop import train

pytestmark = pytest.mark.slow
_TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
_LOOPS = {
    "diffusers_unconditional": (2, ()),
    "accelerate_two_processes": (2, _TORCHRUN),
    "lucidrains_trainer": (4, ()),
    "smalldiffusion_generator": (4, ()),
    "improved_diffusion": (4, ()),
    "nanogpt_ddp": (4, _TORCHRUN),
}


def _run(script: str, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *launcher, str(ROOT / "tests" / "support" / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def _rows() -> list[dict[str, str]]:
    with Path("out/training_metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _added_lines(name: str) -> int:
    """Count the lines marked ``# +`` in a loop, and in the class that it is made of."""
    parts: list[Any] = [getattr(public_loops, name)]
    if name == "accelerate_two_processes":
        parts = [public_loops.diffusers_unconditional]
    parts += [getattr(public_loops, found) for found in re.findall(r"\b(_Train\w+)\(", inspect.getsource(parts[0]))]
    return sum(inspect.getsource(part).count("# +\n") for part in parts)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _expected(notes: list[dict[str, Any]], *, by_batch: bool) -> list[dict[str, float]]:
    """Return what each window must hold, from what the loop itself noted of its steps."""
    windows = [notes[start : start + EVERY] for start in range(0, len(notes), EVERY)]
    rows = []
    for window in windows:
        losses = [loss for step in window for loss in step["losses"]] if by_batch else []
        losses = losses or [_mean(step["losses"]) for step in window]
        mean = _mean(losses)
        row = {
            "loss_mean": mean,
            "loss_std": math.sqrt(_mean([(loss - mean) ** 2 for loss in losses])),
            "loss_min": min(losses),
            "loss_max": max(losses),
            "lr": window[-1]["lr"],
            "grad_norm": _mean([step["norm"] for step in window]),
        }
        rows.append(row | ({"ema_delta_norm": window[-1]["ema"]} if window[-1]["ema"] is not None else {}))
    return rows


def _check(rows: list[dict[str, str]], expected: list[dict[str, float]]) -> tuple[int, int]:
    """Return how many of the values are right to 1e-5, and how many there are."""
    pairs = [
        (float(row[name] or "nan"), value) for row, of in zip(rows, expected, strict=True) for name, value in of.items()
    ]
    return sum(got == pytest.approx(value, rel=1e-5, abs=1e-9) for got, value in pairs), len(pairs)


def _report(name: str, lines: int, right: tuple[int, int], runs: int) -> None:
    sys.stdout.write(f"\n| {name} | +{lines} | {right[0]} of {right[1]} | {runs} |\n")


@pytest.mark.parametrize("name", _LOOPS)
def test_a_public_loop(name: str, sqlite_uri: str) -> None:
    """Interrupted after step 13 and resumed: one run, and every number that of the loop to 1e-5."""
    pytest.importorskip("diffusers")
    most, launcher = _LOOPS[name]
    stopped = _run("public_loops.py", name, "--stop-after", "13", launcher=launcher)
    first = [row["epoch"] for row in _rows()]
    resumed = _run("public_loops.py", name, "--resume", launcher=launcher)
    path = next(path for path in (Path("notes.jsonl"), Path("notes0.jsonl")) if path.exists())
    notes = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows, runs = _rows(), MlflowClient(sqlite_uri).search_runs(["0"])

    assert stopped.returncode != 0
    assert first == ["5", "10", "13"], stopped.stderr
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert [row["epoch"] for row in rows] == ["5", "10", "13", "15", "20", "22"]
    assert [row["partial"] for row in rows] == ["0", "0", "1", "1", "0", "1"]
    by_batch = name in ("diffusers_unconditional", "accelerate_two_processes")
    parts = (notes[:10], notes[10:13], notes[13:15], notes[15:STEPS])
    expected = [row for part in parts for row in _expected(part, by_batch=by_batch)]
    right = _check(rows, expected)
    _report(name, _added_lines(name), right, len(runs))

    assert right[0] == right[1]
    assert _added_lines(name) <= most
    assert [run.info.status for run in runs] == ["FINISHED"]


@pytest.mark.parametrize(("framework", "every"), [("lightning", None), ("transformers", 2)])
def test_a_framework_records_what_a_plain_loop_computes(framework: str, every: int | None, sqlite_uri: str) -> None:
    """Two epochs of seven batches, three a step: losses undivided, norms before clipping, rates of the step."""
    done = _run("framework_loops.py", framework, *(["--every", str(every)] if every else []))
    # Lightning divides each micro-batch by 3, transformers by the number that its step really has.
    steps = train(2, divisor=3 if framework == "lightning" else None)
    windows = [steps[start : start + (every or 3)] for start in range(0, 6, every or 3)]
    expected = []
    for window in windows:
        losses = [step.loss for step in window] if every else [loss for step in window for loss in step.losses]
        norms = _mean([step.grad_norm for step in window])
        expected.append({"loss_mean": _mean(losses), "loss_max": max(losses), "lr": window[-1].lr, "grad_norm": norms})
    right, runs = _check(_rows(), expected), MlflowClient(sqlite_uri).search_runs(["0"])
    _report(f"{framework}, {'steps' if every else 'epochs'}", 1, right, len(runs))

    assert done.returncode == 0, done.stderr[-3000:]
    assert right[0] == right[1]
    assert [run.info.status for run in runs] == ["FINISHED"]
