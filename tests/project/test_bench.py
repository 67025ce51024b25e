"""The benchmark suite runs, and measures every point that issues 3 and 5 name. Its readers judge what it measures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.common import ROOT

WHAT: dict[int | str, tuple[str, ...]] = {
    1: ("`log_batch`, floats", "`log_batch`, 0-d tensors", "batches of floats", "batches of tensors"),
    2: (
        "a store that is fine",
        "in the midst of a delivery",
        "a store that refuses",
        "a store that accepts and never answers",
        "beside one `mlflow.log_metrics`",
        "delivering to sqlite",
        "delivering to an `mlflow server`",
    ),
    3: ("JSON being written, beside epoch 10: median", "memory a tracker grows by"),
    4: ("beside `get_total_norm`", "beside one `.item()` a tensor"),
    5: ("beside `sum((p - q).norm().item()**2)`", "relative error against float64", "extra memory at its peak"),
    6: ("`import mlflow_ddpm`", "`mlflow-ddpm --help`"),
    7: ("wall clock", "CPU time of all threads"),
    8: ("beside bare `get_metric_history`", "twice as many epochs"),
    "6.4": ("no patches", "2x2 patches in our stem", "lever: channels last", "fused AdamW", "a DataLoader", "on a GPU"),
    "13.7": ("back to back, median", "beside `mlflow.log_metrics` of 17 values", "beside its floor"),
    "5.5": ("beside the plain way", "11 plots of 20 epochs, beside 5"),
}


@pytest.mark.slow
def test_the_quick_benchmark_has_a_row_for_every_point(tmp_path: Path) -> None:
    """Nothing is asserted of any time."""
    command = [sys.executable, str(ROOT / "tests" / "bench" / "run.py"), "--quick"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)
    head, rule, *rows = done.stdout.splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]

    assert head.startswith("| point | what | ours | beside | ratio | limit |")
    assert set(rule) <= {"|", "-"}
    for point, texts in WHAT.items():
        of_point = [row[1] for row in cells if row[0] == str(point)]
        for text in texts:
            assert [what for what in of_point if text in what], (point, text)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_what_a_cpu_can_run(tmp_path: Path) -> None:
    """On a machine without one it tells what was not measured; nothing fails."""
    command = [sys.executable, str(ROOT / "tests" / "bench" / "run.py"), "--gpu", "--quick"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)

    for text in (
        "a live copy",
        "sync debug mode",
        "EMA distance",
        "without tracker",
        "diffusers",
        "`gpu` preset",
        "gloo",
    ):
        assert text in done.stdout, text
    assert "Error" not in done.stdout
    assert [] == list(tmp_path.iterdir())
