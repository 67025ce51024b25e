"""Measure what tracking costs, each figure beside its baseline in the same run, and print one Markdown table.

    python tests/bench/run.py [--quick] [--only NAME | --gpu]

Takes about 13 minutes, and at most eight with ``--gpu``, which measures what needs a CUDA device. ``--quick`` runs
everything with tiny counts and judges nothing. The exit status is that of a run that went through: a missed limit shows
in the table.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stopwatches import Effort
from stores import Server
from table import Row, markdown

NAMES = (
    "startup",
    "norms",
    "batches",
    "ends",
    "back_to_back",
    "growth",
    "reading",
    "steps",
    "whole_run",
    "plots",
    "unet",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure what tracking costs, beside its baselines.")
    parser.add_argument("--quick", action="store_true", help="tiny counts: shows that everything runs, judges nothing")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--only", choices=NAMES, help="one part")
    chosen.add_argument("--gpu", action="store_true", help="what needs a CUDA device, or as much as a CPU can run")
    args = parser.parse_args()
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}
    logging.disable(logging.ERROR)  # stores that are away, and odd numbers, are part of the exercise
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported; two threads spin on a busy machine
    names = ["gpu"] if args.gpu else [args.only] if args.only else list(NAMES)

    # Beside the working directory, since the system's temporary directory may be no disk at all.
    # The working directory moves there, since MLflow puts artifacts of a sqlite store into it.
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as place, contextlib.chdir(place):
        for line in markdown(_rows(names, Effort(args.quick, Path(place))), judge=not args.quick):
            print(line, flush=True)


def _rows(names: list[str], effort: Effort) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        server = (Server(effort),) if "steps" in names else ()
        for started in server:
            stack.callback(started.stop)
            if not effort.quick:
                started.uri()  # its start would disturb the first figures
        for name in names:
            part = importlib.import_module(name)  # here, and one by one: numpy and torch wait for the settings above
            yield from part.measure(effort, *server) if name == "steps" else part.measure(effort)


if __name__ == "__main__":
    main()
