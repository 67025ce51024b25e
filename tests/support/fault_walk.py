"""Random walks of faults: a training of 200 short epochs while the world around it breaks and mends, from a seed.

    python tests/support/fault_walk.py --walks 500 --seed 1

At random moments the store goes and comes or refuses files, another program replaces, edits, cuts or deletes the CSV or
the JSON, the directory is moved and put back, file descriptors run out, and the process is killed and started again. At
the end CSV, JSON and store must be equal, with one row an epoch.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]  # run by hand, it is no package

import mlflow.store.tracking.rest_store  # noqa: F401 - what a training needs is imported before the fork
import numpy as np

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.errors import MlflowDdpmError
from mlflow_ddpm.tracking.sync import sync_directory
from support.common import mlflow_server
from support.store_faults import Front, points_in_store, points_on_disk

EPOCHS = 200
KILLS_MAX = 3
REFUSED = 3  # exit status of a training that could not begin, and named the reason
CSV, JSON = "training_metrics.csv", "training_metrics.json"
MOODS = ("pass", "refuse", "cut", "garbage", "no files", 503, 500, 429)


@contextmanager
def front_process(upstream: str) -> Iterator[tuple[str, Callable[[str | int], None]]]:
    """A front in a process of its own, since trainings are forks of this one, which must have no threads."""
    from_front, to_here = os.pipe()
    from_here, to_front = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(to_front)
        front = Front(upstream)
        os.write(to_here, f"{front.url}\n".encode())
        with os.fdopen(from_here) as moods:
            for mood in map(json.loads, moods):
                front.fail_files(413 if mood == "no files" else "pass")
                front.become("pass" if mood == "no files" else mood)
        os._exit(0)
    os.close(from_here)
    url = os.read(from_front, 100).decode().strip()

    def become(mood: str | int) -> None:
        os.write(to_front, f"{json.dumps(mood)}\n".encode())

    try:
        yield url, become
    finally:
        os.close(to_front)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(from_front)
        os.close(to_here)


def train(directory: Path, uri: str) -> None:
    """Continue where the files end."""
    with MetricsTracker(directory, tracking_uri=uri, resume=True) as tracker:
        for epoch in range(tracker.next_epoch, EPOCHS):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0 / (epoch + 1), lr=0.1)
            time.sleep(0.005)
            tracker.end_epoch(extra={"fid": float(epoch)} if epoch % 7 == 3 else None)
            if epoch % 20 == 5:
                tracker.log_image("grid", np.full((4, 4), epoch, np.uint8), epoch)


def fork(body: Callable[[], object]) -> int:
    """Run it in a forked process, which ends with 0, 1 for a failure, or REFUSED; return the process's number."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
            body()
            status = 0
        except (KeyboardInterrupt, SystemExit):
            status = 0
        except MlflowDdpmError:
            status = REFUSED
            logging.getLogger("fault_walk").warning("refused", exc_info=True)
        except BaseException:
            logging.getLogger("fault_walk").exception("a training failed")
        finally:
            os._exit(status)
    return child


def _status_of(process: int) -> int:
    """Wait for a process; return its exit status, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Walk:
    """One training and the faults around it; all of them follow from the seed, but for the moments of the system."""

    def __init__(self, seed: int, place: Path, uri: str, become: Callable[[str | int], None]) -> None:
        self.random, self.out, self.uri, self.become = random.Random(seed), place / "out", uri, become  # noqa: S311
        self.steps: list[str] = []
        self.wrong: list[str] = []
        self._away = place / "away"
        self._process, self._may_refuse = 0, False
        self._limits: tuple[int, int] | None = None

    def run(self) -> list[str]:
        """Train to the end through all faults; return what is wrong, nothing if all is right."""
        kills = 0
        self._start()
        faults = [self.store, self.store, self.change, self.change, self.move, self.starve, self.kill]
        while self._is_running():
            time.sleep(self.random.uniform(0.02, 0.3))
            fault = self.random.choice(faults[: -1 if kills >= KILLS_MAX else None])
            self.mend()
            if self._epochs_on_disk() < EPOCHS - 5:  # the last ones are recorded, and the run closed, in a whole world
                fault()
                kills += fault == self.kill
            self.steps.append(fault.__name__)
        self.mend()
        for body in (lambda: train(self.out, self.uri), lambda: sync_directory(self.out, timeout=60)):
            if _status_of(fork(body)):
                self.wrong.append("the last training or sync")
        return [*self.wrong, *self._differences()]

    def _start(self) -> None:
        self._process, self._may_refuse = fork(lambda: train(self.out, self.uri)), False

    def _is_running(self) -> bool:
        """Return whether the training runs; one that could not begin in a broken world begins again."""
        child, status = os.waitpid(self._process, os.WNOHANG)
        if child and self._may_refuse and os.waitstatus_to_exitcode(status) == REFUSED:
            self.mend()
            self._start()
            return True
        if child and status:
            self.wrong.append("a training failed")
        return child == 0

    def store(self) -> None:
        """The store goes, answers nonsense, or comes back."""
        self.become(self.random.choice(MOODS))

    def change(self) -> None:
        """Another program saves, edits, cuts or deletes a file."""
        path = self.out / self.random.choice((CSV, CSV, JSON))
        self._let_pass(1)  # by then the training, if it has just been started, has read its files
        with suppress(OSError):
            content = path.read_bytes()
            match self.random.randrange(5):
                case 0:
                    (self.out / "other").write_bytes(content)
                    (self.out / "other").replace(path)
                case 1:
                    (self.out / "other").write_bytes(content.replace(b"0.5", b"0.7"))
                    (self.out / "other").replace(path)
                case 2:
                    os.truncate(path, self.random.randrange(len(content) + 1) if path.name == CSV else 0)
                case 3:
                    path.unlink()
                case 4:
                    content = (self.out / CSV).read_bytes()
                    (self.out / "other").write_bytes(b"".join(content.splitlines(keepends=True)[:2]))
                    (self.out / "other").replace(self.out / CSV)
        self._let_pass(2)  # an edited file that nobody could mend in time is what a resume takes or refuses

    def move(self) -> None:
        """The directory is moved away for a while."""
        with suppress(OSError):
            self.out.rename(self._away)
        time.sleep(self.random.uniform(0, 0.2))

    def starve(self) -> None:
        """The process gets no file descriptor more."""
        with suppress(ProcessLookupError):
            self._limits = resource.prlimit(self._process, resource.RLIMIT_NOFILE)
            resource.prlimit(self._process, resource.RLIMIT_NOFILE, (0, self._limits[1]))
            self._may_refuse = True

    def kill(self) -> None:
        """The process is killed, or asked to end, and started again."""
        signum = self.random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        os.kill(self._process, signum)
        if _status_of(self._process) not in (0, -signum, REFUSED if self._may_refuse else 0):
            self.wrong.append(f"a training failed at {signum.name}")
        self._start()

    def mend(self) -> None:
        """Put everything back, then let some epochs pass."""
        self.become("pass")
        if self._limits:
            with suppress(ProcessLookupError):
                resource.prlimit(self._process, resource.RLIMIT_NOFILE, self._limits)
            self._limits = None
        while self._away.exists():
            with suppress(OSError):  # the training may make the directory anew between the two
                if self.out.exists():
                    self.out.rename(self.out.with_name(f"meanwhile-{time.monotonic_ns()}"))
                self._away.rename(self.out)
        self._let_pass(1)  # a process that is killed before has not had its chance to mend anything

    def _epochs_on_disk(self) -> int:
        try:
            return (self.out / CSV).read_bytes().count(b"\n") - 1
        except OSError:
            return 0

    def _let_pass(self, epochs: int) -> None:
        """Wait until the training has written so many rows more, ten seconds at most."""
        goal, deadline = min(self._epochs_on_disk() + epochs, EPOCHS), time.monotonic() + 10
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        while self._epochs_on_disk() < goal and time.monotonic() < deadline:
            with suppress(ChildProcessError):
                if not os.waitid(os.P_PID, self._process, how):
                    time.sleep(0.02)
                    continue
            return

    def _differences(self) -> list[str]:
        with (self.out / CSV).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if "epoch" not in (rows or [{}])[0]:
            return [f"CSV has no epochs: {rows[:1]}"]
        document = json.loads((self.out / JSON).read_bytes())
        checks = {
            "CSV": [int(row["epoch"]) for row in rows] == list(range(EPOCHS)),
            "CSV's values": [float(row["loss_mean"]) for row in rows] == [1 / (n + 1) for n in range(EPOCHS)],
            "JSON": [row["epoch"] for row in document["epochs"]] == list(range(EPOCHS)),
            "JSON's times": [row["logged_at_ms"] for row in document["epochs"]]
            == [int(row["logged_at_ms"]) for row in rows],
            "store": points_in_store(self.uri, document["run"]["run_id"]) == points_on_disk(self.out),
        }
        return [name for name, is_right in checks.items() if not is_right]


def walk(seeds: range, place: Path, uri: str, *, keep: bool = False) -> dict[int, list[str]]:
    """Run a walk for each seed against the server; return what was wrong, by seed."""
    os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    wrong = {}
    with front_process(uri) as (url, become):
        for seed in seeds:
            here = place / f"walk-{seed}"
            here.mkdir()
            trial = Walk(seed, here, url, become)
            found = trial.run()
            sys.stderr.write(f"seed {seed}: {', '.join(found) or 'right'}\n")
            if found:
                wrong[seed] = [*found, *trial.steps]
            elif not keep:
                shutil.rmtree(here)
    return wrong


def main() -> int:
    """Walk by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--walks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logging.getLogger("mlflow_ddpm").setLevel(logging.ERROR)
    place = Path(tempfile.mkdtemp(prefix="fault-walk-"))
    began = time.monotonic()
    with mlflow_server(place) as uri:
        wrong = walk(range(args.seed, args.seed + args.walks), place, uri)
    for seed, found in wrong.items():
        sys.stdout.write(f"seed {seed}, in {place}: {', '.join(found)}\n")
    sys.stdout.write(f"{args.walks} walks, {len(wrong)} wrong, {time.monotonic() - began:.0f} s\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
