"""Real torchrun jobs of ``mlflow-ddpm train``: started, watched, and killed rank by rank."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.common import ROOT

__all__ = ["SMALL", "Job", "torchrun"]

SMALL = [
    *("train", "--device", "cpu", "--image-size", "8", "--base-channels", "8", "--timesteps", "20", "--threads", "1"),
    *("--sample-steps", "2", "--sample-every", "0", "--eval-per-class", "0"),
]
_PATIENCE_SEC = 120.0


class Job:
    """A torchrun agent and the processes that it started."""

    def __init__(self, agent: subprocess.Popen[bytes], log: Path) -> None:
        self.agent, self._log = agent, log

    @property
    def log(self) -> str:
        """What all processes have printed."""
        return self._log.read_text(errors="replace")

    def wait_for_rows(self, path: Path, rows: int) -> None:
        """Wait until a CSV has so many rows."""
        deadline = time.monotonic() + _PATIENCE_SEC
        while not path.exists() or path.read_bytes().count(b"\n") < rows + 1:
            if self.agent.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no {rows} rows in {path}: {self.log[-2000:]}")
            time.sleep(0.02)

    def pid_of(self, rank: int) -> int:
        """Return the process of a rank."""
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = path.joinpath("stat").read_text().rpartition(")")[2].split()[1]
                if int(parent) == self.agent.pid and f"\0RANK={rank}\0" in path.joinpath("environ").read_text():
                    return int(path.name)
        raise AssertionError(f"no process of rank {rank}: {self.log[-2000:]}")

    def end(self) -> float:
        """Wait until the agent has ended; return the seconds that it took."""
        began = time.monotonic()
        self.agent.wait(timeout=_PATIENCE_SEC)
        return time.monotonic() - began


@contextmanager
def torchrun(directory: Path, processes: int, *command: str, **env: str) -> Iterator[Job]:
    """Start a job of ``python -m ...`` and see that nothing of it is left."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    log = directory / "torchrun.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    with log.open("wb") as stream:
        agent = subprocess.Popen(
            [*launcher, *command], stdout=stream, stderr=stream, env=environment, start_new_session=True
        )
    try:
        yield Job(agent, log)
    finally:
        for group in {agent.pid, *_groups(agent.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        agent.wait()


def _groups(agent: int) -> list[int]:
    """Return the sessions that an agent's processes have of their own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == agent:
                found.append(int(path.parent.name))
    return found
