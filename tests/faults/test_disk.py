"""A disk that is full or read-only under the mirror: training goes on, rows are written when there is room again."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.store_faults import play, points_in_store, points_on_disk

from mlflow_ddpm import MetricsTracker

STALL_SEC = 1.0  # the promise is 50 ms; the measured one is printed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    _mount("-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True, timeout=60)


def _mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", *arguments], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a tmpfs")


def _fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            return


def _disk_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "cannot write" in r.getMessage()]


@pytest.mark.parametrize("moment", [0, 3, -1], ids=["before construction", "in the middle", "at the close"])
def test_a_disk_that_fills_up_costs_one_warning_and_no_row(
    moment: int, small_disk: Path, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """MLflow gets every row all the while; the files follow when there is room."""
    out = small_disk / "out"

    def at(epoch: int) -> None:
        if epoch == moment:
            _fill(small_disk)
        elif epoch == 60 and moment != -1:
            (small_disk / "filler").unlink()

    if moment == 0:
        _fill(small_disk)
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        played = play(out, epochs=70, at=at, close_sec=20)

    print(f"full disk: largest stall {1e3 * played.stall_sec:.1f} ms, {len(_disk_warnings(caplog))} warnings")
    assert points_on_disk(out) == points_in_store(sqlite_uri, played.tracker.run_id)
    assert len(points_on_disk(out)["loss_mean"]) == 70
    assert len(_disk_warnings(caplog)) == 1
    assert "No space left" in caplog.text
    assert played.stall_sec < STALL_SEC
    if moment != -1:
        assert len(json.loads((out / "training_metrics.json").read_bytes())["epochs"]) == 70


def test_pictures_on_a_full_disk_are_left_out_without_a_second_warning(
    small_disk: Path, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No half of a picture stays behind."""
    import numpy as np

    with caplog.at_level(logging.WARNING, "mlflow_ddpm"), MetricsTracker(small_disk / "out") as tracker:
        _fill(small_disk)
        for epoch in range(3):
            tracker.log_image("noise", np.random.default_rng(epoch).integers(0, 255, (64, 64, 3), np.uint8), epoch)
        (small_disk / "filler").unlink()

    assert len(_disk_warnings(caplog)) == 1
    assert [] == list((small_disk / "out" / "samples").glob("*"))


def test_a_read_only_directory_costs_one_warning_and_mlflow_gets_every_row(
    small_disk: Path, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A torn line of an earlier life is passed over; it can only be cut where writing is allowed."""
    play(small_disk / "out", epochs=2, close_sec=20)
    table = small_disk / "out" / "training_metrics.csv"
    table.write_bytes(table.read_bytes() + b"2,0.5")
    before = table.read_bytes()
    _mount("-o", "remount,ro", str(small_disk))
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        played = play(small_disk / "out", epochs=4, close_sec=20, resume=True)

    assert [0, 1, 2, 3] == [step for step, *_ in points_in_store(sqlite_uri, played.tracker.run_id)["loss_mean"]]
    assert before == table.read_bytes()
    assert len(_disk_warnings(caplog)) == 1


PROGRAM = """
import json, resource, sys
from support.store_faults import play

def forbid(): resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
def allow(): resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
def at(epoch):
    if epoch == int(sys.argv[1]): forbid()
    if epoch == 5: allow()
if sys.argv[1] == "0": forbid()
played = play("out", epochs=8, at=at, close_sec=0.2, tracking_uri="http://127.0.0.1:9")
print(json.dumps({"stall": played.stall_sec, "construction": played.construction_sec}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0, 3])
def test_a_process_that_may_write_nothing_trains_on(moment: int) -> None:
    """For whoever may not mount: the system refuses every write of the process, then allows them again."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(moment)], check=False, capture_output=True, text=True, env=env, timeout=120
    )

    assert done.returncode == 0, done.stderr
    print(f"no writing: {done.stdout.strip()}")
    assert json.loads(done.stdout)["stall"] < STALL_SEC
    assert done.stderr.count("cannot write") == 1, done.stderr
    with Path("out/training_metrics.csv").open(newline="", encoding="utf-8") as file:
        assert [str(epoch) for epoch in range(8)] == [cells["epoch"] for cells in csv.DictReader(file)]
