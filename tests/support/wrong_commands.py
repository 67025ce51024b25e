"""Wrong command lines, what is printed for each, and the exit status.

``python tests/support/wrong_commands.py`` runs them in a temporary directory and prints the table in Markdown.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

__all__ = ["WRONG", "Wrong", "prepare", "run_command"]

_NO_DATA = "train --data emnist-mnist --output-dir new"  # EMNIST's files are not there


class Wrong(NamedTuple):
    """A wrong command line."""

    words: str  # after ``mlflow-ddpm``
    status: int
    message: str  # part of the one line on standard error


WRONG = (
    Wrong("trian", 2, "has no command trian; did you mean train?"),
    Wrong("frobnicate", 2, "has no command frobnicate; see `mlflow-ddpm --help`"),
    Wrong("--versoin", 2, "has no option --versoin; did you mean --version?"),
    Wrong("--tracking-uri x history", 2, "has no option --tracking-uri; see `mlflow-ddpm --help`"),
    Wrong("train --epoch-count 3", 2, "train has no option --epoch-count; did you mean --epochs?"),
    Wrong("train --learning-rate 1e-3", 2, "train has no option --learning-rate; did you mean --lr?"),
    Wrong("train --batchsize=64", 2, "train has no option --batchsize; did you mean --batch-size?"),
    Wrong("train -e 3", 2, "train takes no option -e; see `mlflow-ddpm train --help`"),
    Wrong("train --e 3", 2, "ambiguous option: --e could match"),
    Wrong("history http://ann:hunter2@host", 1, "http://***@host"),
    Wrong("train digits", 2, "train takes no further argument digits"),
    Wrong("train --epochs", 2, "--epochs needs a value: --epochs=EPOCHS"),
    Wrong("train --resume=yes", 2, "--resume takes no value, got 'yes'"),
    Wrong("train --epochs many", 2, "--epochs: expected a whole number or 'auto', got 'many'"),
    Wrong("train --epochs 0", 2, "--epochs must be >= 1 and <= 1000000, got 0"),
    Wrong("train --lr fast", 2, "--lr: expected a finite number or 'auto', got 'fast'"),
    Wrong("train --lr nan", 2, "--lr must be a finite number"),
    Wrong("train --threads 100000000", 2, "--threads must be >= 0 and <= 1024, got 100000000"),
    Wrong("train --seed -1", 2, "--seed must be >= 0 and < 2147483648, got -1"),
    Wrong("train --sample-steps 2000", 2, "--sample-steps must be <= --timesteps (1000), got 2000"),
    Wrong("train --run-name ''", 2, "--run-name: expected a name, got ''"),
    Wrong("train \N{EN DASH}epochs 3", 2, "train takes no option \N{EN DASH}epochs; did you mean --epochs?"),
    Wrong("train --channel-mults 1-2", 2, "--channel-mults: expected positive whole numbers such as 1,2,2"),
    Wrong("train --data emnist-minst", 2, "got 'emnist-minst'; did you mean emnist-mnist?"),
    Wrong("train --data mnist", 2, "got 'mnist'; did you mean emnist-mnist?"),
    Wrong("train --device gpu", 2, "--device: expected one of auto, cpu, cuda, got 'gpu'"),
    Wrong('train --options "\'--epochs 3"', 2, "--options: expected every quote to be closed"),
    Wrong("history run --columns ''", 2, "--columns: expected a name, got ''"),
    Wrong("train --preset lapotp", 2, "expected one of laptop, gpu, large, got 'lapotp'; did you mean laptop?"),
    Wrong(
        "train --image-size 9",
        2,
        "--image-size must be a multiple of 4 (--patch-size 2, doubled",
    ),
    Wrong("train --options='--nope 1'", 2, "train has no option --nope; see `mlflow-ddpm train --help`"),
    Wrong("train --register-model a/b", 2, "--register-model: expected a name without / or :, got 'a/b'"),
    Wrong("train --output-dir ''", 2, "--output-dir: expected a name, got ''"),
    Wrong("train --output-dir a-file", 2, "a-file is a file; choose another --output-dir"),
    Wrong("train --output-dir a-file/below", 2, "a-file is a file; choose another --output-dir"),
    Wrong("train --output-dir /proc/nope", 2, "/proc/nope cannot be written"),
    Wrong("train --output-dir run", 2, "run holds the finished run"),
    Wrong("train --tracking-uri htp://x --output-dir new", 1, "this is not a tracking URI"),
    Wrong(f"{_NO_DATA} --data-dir nowhere", 1, "missing emnist-mnist-mapping.txt"),
    Wrong(f"{_NO_DATA} --download ftp://x", 2, "--download: expected an address such as https://"),
    Wrong("sample", 2, "sample needs SOURCE; see `mlflow-ddpm sample --help`"),
    Wrong("sample nowhere", 1, "nowhere"),
    Wrong("sample run --per-class 0", 2, "--per-class: expected a whole number >= 1, got '0'"),
    Wrong("sample run --output grid.jpg", 2, "--output must be a name that ends in .png, got grid.jpg"),
    Wrong("publish", 2, "expected either RUN or --last, got neither"),
    Wrong("publish run --last", 2, "expected either RUN or --last, got both"),
    Wrong("publish run --format pdf,tiff", 2, "--format: expected one of auto, png, pdf, svg, got 'tiff'"),
    Wrong("publish run --theme papr", 2, "--theme: expected one of dark, paper, got 'papr'; did you mean paper?"),
    Wrong("publish run --width single", 2, "--width goes with --theme paper, got --theme dark"),
    Wrong("publish run --output-dir a-file", 2, "--output-dir: a-file is a file; expected a directory"),
    Wrong("download run", 2, "expected either RUN or --last, and then a folder, got run alone"),
    Wrong("compare run", 2, "a comparison takes 2 runs or more, got 1"),
    Wrong("history nowhere", 1, "no such file or directory: nowhere"),
    Wrong("history ffffffffffffffffffffffffffffffff", 1, "ffffffffffffffffffffffffffffffff"),
    Wrong("history run --columns los_mean", 2, "--columns: no column los_mean; did you mean loss_mean?"),
    Wrong("history --tracking-uri '' --last", 2, "--tracking-uri: expected a name, got ''"),
    Wrong("history run --format json", 2, "--format: expected one of table, csv, got 'json'"),
    Wrong("history damaged", 1, "damaged"),
    Wrong("sync", 2, "sync needs DIR; see `mlflow-ddpm sync --help`"),
    Wrong("sync run --timeout soon", 2, "--timeout: expected a number >= 0, got 'soon'"),
    Wrong("sync nowhere", 1, "nowhere is not the output directory of a training run"),
    Wrong("status .", 1, ". is not the output directory of a training run"),
    Wrong("status ''", 2, "DIR: expected a name, got ''"),
)


def prepare(directory: Path) -> None:
    """Make what the command lines name: a finished run, a file, and a damaged directory."""
    from mlflow_ddpm import MetricsTracker

    (directory / "a-file").write_text("")
    with MetricsTracker(directory / "run", tracking_uri=f"sqlite:///{directory / 'mlflow.db'}") as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(0.5)
        tracker.end_epoch()
    (directory / "damaged").mkdir()
    (directory / "damaged" / "training_metrics.csv").write_text("no,table\n1,2\n")


def run_command(words: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mlflow_ddpm", *shlex.split(words)],
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{directory / 'mlflow.db'}"},
        timeout=120,
    )


def _print_table() -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder).resolve()
        prepare(directory)
        print("| `mlflow-ddpm ...` | printed | exit |\n| --- | --- | --- |")
        for wrong in WRONG:
            done = run_command(wrong.words, directory)
            text = (done.stdout + done.stderr).strip().removeprefix("mlflow-ddpm: error: ").replace("|", "\\|")
            print(f"| `{wrong.words}` | {text.replace(str(directory), '.')} | {done.returncode} |")


if __name__ == "__main__":
    _print_table()
