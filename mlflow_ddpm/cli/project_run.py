"""``mlflow run`` starts its command in the project's folder: here the command goes back to where the caller stands.

A relative tracking URI, data folder or output folder then means what it means to the caller, whether the project is a
folder elsewhere or a clone of a git repository that MLflow deletes some day.
"""

import contextlib
import os
from pathlib import Path

_ANCESTORS_MAX = 4  # this process, a shell or two, `mlflow run`


def enter_callers_folder() -> None:
    """Change to the folder of the ``mlflow run`` that started this process, where there is one.

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
            programs = [Path(word).name for word in words]
            if "mlflow" in programs and "run" in words[programs.index("mlflow") :]:
                os.chdir(process / "cwd")
                return
            pid = int(process.joinpath("stat").read_text().rpartition(")")[2].split()[1])
