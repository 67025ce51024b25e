"""The recipes of docs/architecture.md: a metric and a plot, added where it names, are everywhere else by themselves."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.common import ROOT

# A metric: a field, and its value. Both are put before a line that stands there today.
_FIELD = """    loss_range: float | None = _metric("Loss range", "", "Loss", "Largest less smallest finite batch loss.")
"""
_PLOT = """    Plot("loss_range", "Loss Range", "How far the batches lie apart.", "How far the batches lie apart.",
        say.describe_typical("loss_range", "range"), draw.draw_line,
        Quantity("loss_range", "log_batch was never called"), ("loss_range",)),
"""
_EDITS = {
    "core/metrics.py": [("    # What follows are not metrics of the table", _FIELD)],
    "tracking/epoch_statistics.py": [
        ("    nonfinite_batches: int\n", "    loss_range: float | None\n"),
        (
            "        nonfinite_batches=len(bad_losses | bad_norms),\n",
            "        loss_range=max(batches.losses) - min(batches.losses),\n",
        ),
    ],
    # A plot: one row.
    "plotting/plot_table.py": [
        (
            '    Plot(\n        "training_dashboard",\n',
            _PLOT,
        )
    ],
}
_TRAINING = """
from mlflow_ddpm import MetricsTracker, generate_all_plots, generate_report
with MetricsTracker("out") as tracker:
    for epoch in range(3):
        tracker.start_epoch(epoch)
        tracker.log_batch(1.0)
        tracker.log_batch(1.5 + epoch)
        tracker.end_epoch()
    plots = generate_all_plots(tracker, "out", formats=("png", "svg"))
    generate_report(tracker, save_dir="out", plot_paths=plots)
print(tracker.run_id)
"""


@pytest.mark.slow
def test_a_metric_takes_two_files_and_a_plot_one(tmp_path: Path, sqlite_uri: str) -> None:
    """CSV, JSON, MLflow, plots with their data, both reports and the table of the docs have them."""
    from mlflow import MlflowClient

    shutil.copytree(ROOT / "mlflow_ddpm", tmp_path / "mlflow_ddpm", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name, edits in _EDITS.items():
        path = tmp_path / "mlflow_ddpm" / name
        text = path.read_text(encoding="utf-8")
        for line, addition in edits:
            assert text.count(line) == 1, (name, line)
            text = text.replace(line, addition + line)
        path.write_text(text, encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _TRAINING], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    script = str(ROOT / "tests/support/doc_tables.py")
    subprocess.run([sys.executable, script, str(tmp_path / "docs")], check=True, env=env, timeout=60)

    with Path("out/training_metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    document = json.loads(Path("out/training_metrics.json").read_text(encoding="utf-8"))
    points = MlflowClient(sqlite_uri).get_metric_history(done.stdout.split()[-1], "loss_range")
    report = Path("out/training_report.md").read_text(encoding="utf-8")
    assert [float(row["loss_range"]) for row in rows] == [0.5, 1.5, 2.5]
    assert [row["loss_range"] for row in document["epochs"]] == [0.5, 1.5, 2.5]
    assert [(point.step, point.value) for point in points] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert Path("out/loss_range.png").stat().st_size > 10_000
    assert Path("out/loss_range.csv").read_text(encoding="utf-8").startswith("epoch,loss_range")
    assert "](loss_range.png)" in report
    assert "| Loss range |" in report
    assert "How far the batches lie apart." in Path("out/training_report.html").read_text(encoding="utf-8")
    assert f"| `loss_range` |  | {'Largest less smallest finite batch loss.'} |" in (
        tmp_path / "docs/metrics.md"
    ).read_text(encoding="utf-8")


def test_the_page_names_files_that_exist() -> None:
    """Every file and folder of the package that it mentions."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = "core|storage|analysis|tracking|plotting|reporting|publishing|ddpm|integrations|cli"
    named = re.findall(rf"(?<![\w/])((?:{rooms})/[\w/]*(?:\.py)?)", text)

    assert len(named) > 25
    assert [] == [name for name in named if not (ROOT / "mlflow_ddpm" / name).exists()]


def test_the_page_has_the_floors_as_they_are() -> None:
    """Counted from the imports."""
    from support.floors import floor_of, imports

    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for room in imports():
        (line,) = [row for row in text.splitlines() if row.startswith("| ") and f"`{room}`" in row]
        assert line.startswith(f"| {floor_of(room)} |"), room
