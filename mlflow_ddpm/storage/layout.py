"""Where a trained model lies: the names of its two files and of their folder, on disk and among a run's artifacts."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DESCRIPTION_NAME", "MODEL_FOLDER", "WEIGHTS_NAME", "model_files"]

MODEL_FOLDER = "model"  # below an output directory, and of a run's artifacts
# The names that HuggingFace's libraries look for.
WEIGHTS_NAME = "model.safetensors"
DESCRIPTION_NAME = "config.json"


def model_files(output_dir: Path) -> list[Path]:
    """Return the model's two files in an output directory, or none unless both are there."""
    paths = [output_dir / MODEL_FOLDER / name for name in (WEIGHTS_NAME, DESCRIPTION_NAME)]
    return paths if all(path.is_file() for path in paths) else []
