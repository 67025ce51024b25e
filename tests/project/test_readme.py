"""The README is kept honest: its table, its commands, its blocks."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from support.common import ROOT

from mlflow_ddpm.analysis.findings.rules import RULES
from mlflow_ddpm.core.extra_metrics import PIPELINE_METRICS
from mlflow_ddpm.core.metrics import METRICS

README = (ROOT / "README.md").read_text(encoding="utf-8")

TOY = """
import torch
from torch import nn
model, TRAINING_CONFIG, num_epochs = nn.Linear(4, 1), {"lr": 1e-2}, 2
ema_model = torch.optim.swa_utils.AveragedModel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=TRAINING_CONFIG["lr"])
dataloader = [torch.randn(8, 4) for _ in range(3)]
from pathlib import Path
from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.saved_model.save import save_model
from mlflow_ddpm.ddpm.training.trainer import build_model
config = Config().resolve()
save_model(Path("runs/digits"), build_model(config, 10), config, [str(digit) for digit in range(10)])
def train_step(batch):
    optimizer.zero_grad()
    loss = model(batch).square().mean()
    loss.backward()
    optimizer.step()
    return loss
"""


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def test_the_table_of_metrics_is_the_table_of_the_code() -> None:
    """Name, unit and meaning."""
    rows = [f"| `{m.name}` | {m.unit} | {m.meaning} |" for m in METRICS]

    assert "\n".join(rows) in README


def test_the_table_of_the_pipelines_extras_is_the_table_of_the_code() -> None:
    """Every extra that ``mlflow-ddpm train`` records, and none that it does not."""
    rows = [f"| `{m.name}` | {m.unit} | {m.meaning} |" for m in PIPELINE_METRICS]

    assert "\n".join(["|---|---|---|", *rows, "", "</details>"]) in README
    assert ("The seventeen extras" in README) == (len(rows) == 17)


def test_the_table_of_findings_is_the_table_of_the_code() -> None:
    """Rule, severity and threshold."""
    rows = [f"| `{rule.name}` | {rule.severity} | {rule.threshold} |" for rule in RULES]

    assert "\n".join(rows) in README


def test_the_two_commands_come_first_and_use_the_tested_versions() -> None:
    """CI takes them from here and runs them in a fresh clone."""
    run, test = _blocks("bash")

    assert run.strip().endswith("&& mlflow run . --env-manager=local")
    assert test.strip().endswith("&& pytest")
    assert all("pip install -q -c constraints.txt -e" in command for command in (run, test))


@pytest.mark.slow
def test_every_python_block_runs_one_after_the_other(sqlite_uri: str) -> None:
    """On a toy model and an untrained U-Net, in a process of its own."""
    code = TOY + "\n".join(_blocks("python"))

    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_picture_and_link_in_the_repository_is_there() -> None:
    """A README with a hole in it is the first thing that one sees."""
    targets = re.findall(r"\]\(([^)#]+)\)", README)

    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_no_line_is_left_to_be_filled_in() -> None:
    """Figures are measured, not promised."""
    assert "@@" not in README
