"""The documentation's pages, taken apart: code blocks, commands, links, and what their code needs to run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from support.common import ROOT

__all__ = ["PAGES", "PLACEHOLDERS", "STAND_INS", "Block", "blocks_of", "commands_of", "setup_of"]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# What a page's code calls its reader's own, made tiny.
STAND_INS = """
import numpy as np, torch, warnings
from torch import nn
torch.manual_seed(0)
warnings.filterwarnings("ignore")  # of the frameworks
model, TRAINING_CONFIG, num_epochs, num_steps, device = nn.Linear(4, 1), {"lr": 1e-2}, 2, 5, "cpu"
ema_model = torch.optim.swa_utils.AveragedModel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=TRAINING_CONFIG["lr"])
dataloader = torch.utils.data.DataLoader(torch.randn(24, 4), batch_size=8)
def compute_loss(model, batch):
    return model(batch).square().mean()
def train_step(batch):
    optimizer.zero_grad()
    loss = compute_loss(model, batch)
    loss.backward()
    optimizer.step()
    return loss
def endless(dataloader):
    while True:
        yield from dataloader
def draw_samples(model):
    return np.zeros((8, 8), dtype=np.uint8)
"""

# A finished run in my_metrics, runs/a and runs/b, and its id; a model in runs/digits.
_RUNS = """
import os
from pathlib import Path
from mlflow_ddpm import MetricsTracker
for place in ("my_metrics", "runs/a", "runs/b", "runs/digits"):
    with MetricsTracker(place, config={"lr": 0.1}) as tracker:
        for epoch in range(3):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0 / (epoch + 1), lr=0.1, grad_norm=1.0, batch_size=8)
            tracker.end_epoch()
    if place == "my_metrics":
        RUN_ID = tracker.run_id
"""
_MODEL = """
from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.saved_model.model_files import save_model
from mlflow_ddpm.ddpm.training.trainer import build_model
config = Config().resolve()
save_model(Path("runs/digits"), build_model(config, 10), config, [str(digit) for digit in range(10)])
"""
_FRAMEWORKS = """
import lightning
quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False, "logger": False}
class LightningModule(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)
    def training_step(self, batch, number):
        return compute_loss(self.net, batch)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
lightning_module = LightningModule()
import transformers
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)
    def forward(self, x, labels=None):
        return {"loss": self.net(x).square().mean()}
options = transformers.TrainingArguments("hf", num_train_epochs=2, report_to=[], use_cpu=True, disable_tqdm=True)
data = [{"x": torch.randn(4), "labels": 0} for _ in range(8)]
hf_trainer = transformers.Trainer(model=Net(), args=options, train_dataset=data)
"""
_NEEDS_FRAMEWORKS = {"your-loop.md"}
_NAMES_OF_RUNS = ('my_metrics"', " my_metrics", "RUN", "runs/")
PLACEHOLDERS = {
    "DIR": "my_metrics",
    "NAME": "laptop",
    "N": "40",
    "RUN": "runs/digits",
    "FOLDER": "hub_folder",
    "PARAM": "lr",
    "COMMAND": "train",
}


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    code: str
    processes: int  # 0: in the page's own process

    @property
    def is_distributed(self) -> bool:
        """Whether it is run by torchrun."""
        return self.processes > 0


def blocks_of(page: Path, language: str) -> list[Block]:
    """Return a page's fenced blocks of a language, in order."""
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(r"^(?:<!-- processes: (\d+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [Block(kind, code, int(count or 0)) for count, kind, code in pattern.findall(text) if kind == language]


def setup_of(page: Path) -> str:
    """Return the code that stands before a page's own."""
    text = page.read_text(encoding="utf-8")
    needs_model, needs_runs = "runs/digits" in text, any(name in text for name in _NAMES_OF_RUNS)
    parts = [_RUNS] * (needs_model or needs_runs) + [_MODEL] * needs_model
    return STAND_INS + "".join(parts) + (_FRAMEWORKS if page.name in _NEEDS_FRAMEWORKS else "")


def commands_of(page: Path, *, inline: bool = False) -> list[list[str]]:
    """Return the arguments of every ``mlflow-ddpm`` command in a page's blocks, or in its sentences and tables."""
    text = page.read_text(encoding="utf-8")
    if inline:
        lines = re.findall(r"`(mlflow-ddpm \w[^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    else:
        lines = [line for block in blocks_of(page, "sh") for line in block.code.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    names_only = 2 if inline else 1  # `mlflow-ddpm export`, in a sentence
    calls = [line[1:] for line in words if line[:1] == ["mlflow-ddpm"] and len(line) > names_only]
    return [call for call in calls if not {"...", "--help"}.intersection(call) and "[" not in "".join(call)]
