"""Run Python files, each in its own folder, in forks of one process that has imported what all of them need.

The imports of torch and MLflow take longer than what most files do. The exit status is the number of files that failed.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - what a file needs is imported before the fork
import torch  # noqa: F401

import mlflow_ddpm.cli.main
import mlflow_ddpm.publishing.publish  # noqa: F401
from support.common import draw_few_plots


def main() -> int:
    """Run the files that the command line names; a failing one prints its traceback, and the others follow."""
    draw_few_plots()
    failed = 0
    for name in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            os.chdir(Path(name).parent)
            runpy.run_path(name, run_name="__main__")
            return 0  # the fork's interpreter ends as any other, with what it runs at exit
        _, status = os.waitpid(child, 0)
        if status:
            failed += 1
            sys.stderr.write(f"{name} ended with status {status}\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
