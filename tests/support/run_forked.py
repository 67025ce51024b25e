"""Run Python files, each in its own folder, in forks of one process that has imported what all of them need.

The imports of torch and MLflow take longer than what most files do. The exit status is the number of files that failed.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - what a file needs is imported before the fork
import torch  # noqa: F401

import mlflow_ddpm.cli.main
import mlflow_ddpm.publishing.publish  # noqa: F401
from support.common import draw_few_plots

_SEC_MAX = 300  # for one file


def main() -> int:
    """Run the files that the command line names; a failing one prints its traceback, and the others follow."""
    draw_few_plots()
    failed = []
    for name in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            signal.alarm(_SEC_MAX)
            os.chdir(Path(name).parent)
            sys.path[0] = str(Path(name).parent)  # not this file's folder, whose names a reader does not have
            runpy.run_path(name, run_name="__main__")
            return 0  # the fork's interpreter ends as any other, with what it runs at exit
        _, status = os.waitpid(child, 0)
        if status:
            failed.append(f"{name} ended with status {status}\n")
    sys.stderr.write("".join(failed))
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
