"""The name of every file of a run, on disk and among the run's artifacts. Nothing else spells one."""

import re
from pathlib import Path

ARTIFACT_FOLDER = "metrics"  # of a run's artifacts: the specified tree

# The history, and what is kept beside it rather than lost.
CSV_NAME = "training_metrics.csv"
JSON_NAME = "training_metrics.json"
SUPERSEDED_NAME = "training_metrics.superseded.csv"  # rows that a later row of the same epoch replaced
TORN_NAME = "training_metrics.csv.torn"  # a last line that a crash left unfinished

# The state of the upload, and who writes to the directory.
DELIVERY_STATE_NAME = ".delivery.json"
LOCK_NAME = ".writer.lock"
HOLDER_NAME = ".writer.json"
PUBLISHED_NAME = ".published"  # holds the id of the run whose plots, report and model were made to the last
OWN_FILES = (CSV_NAME, JSON_NAME, DELIVERY_STATE_NAME, HOLDER_NAME)  # replaced as a whole, by way of a temporary file

# After the run. The plots' files bear the names of the plots (plotting/plot_table.py).
REPORT_NAME = "training_report.md"
HTML_NAME = "training_report.html"
DASHBOARD_NAME = "training_dashboard.png"
PREVIEW_NAME = "preview.png"  # the picture of the run's description: among the artifacts alone
SUMMARY_NAME = "training_summary"  # .csv and .tex

# Logged images, in a folder on disk and under the artifact folder.
SAMPLES_FOLDER = "samples"
SAMPLE_PATTERN = re.compile(r"(?P<name>[A-Za-z0-9_\-]{1,100})_epoch_(?P<epoch>[0-9]{6,19})\.png")

# What the included pipeline adds. The model's names are those that Hugging Face's libraries look for.
CHECKPOINT_FOLDER = "checkpoints"
CHECKPOINT_PATTERN = re.compile(r"checkpoint_(\d{6,})\.pt")
MODEL_FOLDER = "model"  # below an output directory, and of a run's artifacts
WEIGHTS_NAME = "model.safetensors"
DESCRIPTION_NAME = "config.json"
CONFIG_NAME = "config.json"  # all settings of a run of the pipeline, whose params are fewer; beside the history


def sample_name(name: str, epoch: int) -> str:
    """Return the file name of an image that belongs to an epoch."""
    return f"{name}_epoch_{epoch:06d}.png"


def checkpoint_name(epoch: int) -> str:
    """Return the file name of the checkpoint written after an epoch."""
    return f"checkpoint_{epoch:06d}.pt"


def edited_name(path: Path, number: int) -> str:
    """Return the name for a file as another program changed it: ``training_metrics.edited.csv``, ``.edited-2``, ..."""
    return f"{path.stem}.edited{f'-{number}' if number > 1 else ''}{path.suffix}"


def model_files(output_dir: Path) -> list[Path]:
    """Return the model's two files in an output directory, or none unless both are there. Links are not followed."""
    folder = output_dir / MODEL_FOLDER
    paths = [folder / name for name in (WEIGHTS_NAME, DESCRIPTION_NAME)]
    try:
        is_whole = all(path.is_file() and not path.is_symlink() for path in paths) and not folder.is_symlink()
    except OSError:  # no right to look
        return []
    return paths if is_whole else []
