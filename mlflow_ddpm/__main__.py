"""The command ``mlflow-ddpm``, and ``python -m mlflow_ddpm``, which the MLproject file starts."""

import contextlib
import itertools
import os
import signal
import sys
from pathlib import Path

_ANCESTORS_MAX = 4  # this process, a shell or two, `mlflow run`


def main() -> int:
    """Run the command line; return the exit status. Modules are imported where an interrupt is caught."""
    try:
        from mlflow_ddpm.cli import main as command_line
    except KeyboardInterrupt:
        sys.stderr.write("mlflow-ddpm: error: interrupted\n")
        return 130
    enter_callers_folder()
    try:
        return command_line.main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is printed: an interrupt of Python's exit is no traceback


def enter_callers_folder() -> None:
    """Change to the folder of the ``mlflow run`` that started this process, where there is one.

    A relative tracking URI, data folder or output folder then means what it means to the caller, and not to the
    project's folder, in which MLflow starts a command: it may be a clone of a repository that MLflow deletes some day.
    Without /proc, or where a program called ``mlflow.projects.run``, this process stays in the project's folder; what
    it prints are absolute paths.
    """
    if "MLFLOW_RUN_ID" not in os.environ:
        return
    pid = os.getppid()
    with contextlib.suppress(OSError, ValueError, IndexError):  # no /proc, or another user's process
        for _ in range(_ANCESTORS_MAX):
            process = Path(f"/proc/{pid}")
            words = process.joinpath("cmdline").read_bytes().decode(errors="replace").split("\0")
            from_mlflow_on = itertools.dropwhile(lambda word: Path(word).name != "mlflow", words)
            if "run" in from_mlflow_on:
                os.chdir(process / "cwd")
                return
            pid = int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])


if __name__ == "__main__":
    raise SystemExit(main())
