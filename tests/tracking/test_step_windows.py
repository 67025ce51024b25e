"""Loops that count steps: rows by windows, whatever steps are skipped, repeated or continued."""

from __future__ import annotations

import csv
import json
import logging
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from mlflow import MlflowClient

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.errors import UsageError

if TYPE_CHECKING:
    from support.common import HandClock


def _table(directory: str = "out", name: str = "training_metrics.csv") -> list[dict[str, str]]:
    with (Path(directory) / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _column(name: str, directory: str = "out") -> list[float]:
    return [float(cells[name]) for cells in _table(directory)]


def test_a_row_ends_when_the_steps_done_are_a_multiple_and_the_last_is_short(sqlite_uri: str) -> None:
    """Its number is the steps done, in the CSV and as MLflow's step; the short one is marked."""
    with MetricsTracker("out", every_n_steps=10) as tracker:
        for step in range(25):
            tracker.log_step(step, float(step), lr=0.1 * step, grad_norm=torch.tensor(2.0), batch_size=4, fid=step)
        run_id = tracker.run_id or ""

    points = MlflowClient(sqlite_uri).get_metric_history(run_id, "loss_mean")
    assert [10, 20, 25] == _column("epoch") == [point.step for point in points]
    assert [4.5, 14.5, 22.0] == _column("loss_mean") == _column("fid") == [point.value for point in points]
    assert [10, 10, 5] == _column("batches")
    assert [0, 0, 1] == _column("partial")
    assert _column("lr") == pytest.approx([0.9, 1.9, 2.4])


def test_the_ema_distance_is_that_of_the_windows_last_step(sqlite_uri: str) -> None:
    """Not of the step after it, by whose call a lazier window would end."""
    weight = torch.nn.Linear(1, 1, bias=False)
    average = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(average.weight)
    with MetricsTracker("out", every_n_steps=2) as tracker:
        tracker.watch(weight, average)
        for step in range(4):
            torch.nn.init.constant_(weight.weight, float(step))
            tracker.log_step(step, 1.0)

    assert [1.0, 3.0] == _column("ema_delta_norm")


def test_time_and_throughput_are_those_of_the_window(sqlite_uri: str, clock: HandClock) -> None:
    """The first step was over when the first call came: the rates leave it out."""
    with MetricsTracker("out", every_n_steps=5, clock=clock) as tracker:
        for step in range(10):
            clock.seconds += 2.0
            tracker.log_step(step, 1.0, batch_size=8)
            with tracker.paused():
                clock.seconds += 100.0

    assert [8.0, 10.0] == _column("epoch_time_sec")
    assert [0.5, 0.5] == _column("batches_per_sec")
    assert [4.0, 4.0] == _column("samples_per_sec")
    assert [8.0, 18.0] == _column("cumulative_time_sec")


def test_a_row_of_the_first_step_alone_has_no_rates(sqlite_uri: str, clock: HandClock) -> None:
    """That step was over when the clock started: a rate of zero would be a false one."""
    with MetricsTracker("out", every_n_steps=1, clock=clock) as tracker:
        for step in range(2):
            clock.seconds += 2.0
            tracker.log_step(step, 1.0, batch_size=8)

    assert [(cells["batches_per_sec"], cells["samples_per_sec"]) for cells in _table()] == [("", ""), ("0.5", "4.0")]


def test_a_resume_inside_a_window_continues_at_its_step_and_is_marked(sqlite_uri: str) -> None:
    """The row whose steps the resume does again makes way, wherever the run is read from; nothing else does."""
    tracker = MetricsTracker("out", every_n_steps=10)
    for step in range(17):
        tracker.log_step(step, 1.0)
    tracker.close("FAILED")
    assert [10, 17] == _column("epoch")
    with MetricsTracker("out", every_n_steps=10) as tracker:
        first = tracker.next_epoch
        for step in range(14, 30):
            tracker.log_step(step, 2.0)
        run_ids = [run.info.run_id for run in MlflowClient(sqlite_uri).search_runs(["0"])]

    assert first == 17
    assert [tracker.run_id] == run_ids
    _check_everywhere([10, 20, 30], [0, 1, 0], [10, 6, 10])
    seconds = _column("epoch_time_sec")
    assert _column("cumulative_time_sec") == pytest.approx([sum(seconds[:n]) for n in (1, 2, 3)])
    assert [row["epoch"] for row in _table(name="training_metrics.superseded.csv")] == ["17"]


@pytest.mark.parametrize(
    ("first", "numbers", "partial", "batches"),
    [
        (17, [10, 17, 20, 30], [0, 1, 1, 0], [10, 7, 3, 10]),  # two parts that make up the window
        (10, [10, 20, 30], [0, 0, 0], [10, 10, 10]),
        (3, [10, 20, 30], [1, 0, 0], [7, 10, 10]),
        (0, [10, 20, 30], [0, 0, 0], [10, 10, 10]),
    ],
)
def test_a_partial_row_stays_unless_its_steps_are_done_again(
    sqlite_uri: str, first: int, numbers: list[int], partial: list[int], batches: list[int]
) -> None:
    """Wherever the resume begins; the files of both lives are in step with MLflow."""
    for begin, end, status in ((0, 17, "KILLED"), (first, 30, None)):
        tracker = MetricsTracker("out", every_n_steps=10)
        for step in range(begin, end):
            tracker.log_step(step, 1.0)
        assert tracker.close(status)

    _check_everywhere(numbers, partial, batches)


@pytest.mark.parametrize(("first", "numbers"), [(13, [10, 13, 20]), (12, [10, 20]), (10, [10, 20])])
def test_so_it_is_where_a_step_has_several_batches(sqlite_uri: str, first: int, numbers: list[int]) -> None:
    """As Accelerate's scripts log them under accumulation."""
    from mlflow_ddpm.integrations.accelerate import AccelerateTracker

    for begin, end, status in ((0, 13, "KILLED"), (first, 20, None)):
        log_with = AccelerateTracker("out", every_n_steps=10)
        for step in range(begin, end):
            for done in (step, step, step + 1):
                log_with._steps_done = step
                log_with.log({"loss": 1.0}, step=done)
        log_with.tracker.close(status)

    assert numbers == _column("epoch")


def _check_everywhere(numbers: list[int], partial: list[int], batches: list[int]) -> None:
    """Check the rows of the CSV, the JSON, the directory and the run in MLflow."""
    from mlflow_ddpm import read_history

    run_id = json.loads(Path("out/training_metrics.json").read_text())["run"]["run_id"]
    for source in ("out/training_metrics.csv", "out/training_metrics.json", "out", run_id):
        frame = read_history(source)
        assert [list(frame[name]) for name in ("epoch", "partial", "batches")] == [numbers, partial, batches], source


def test_a_loop_that_logs_every_seventh_step_has_rows_of_its_own(sqlite_uri: str) -> None:
    """A window whose last steps were not logged ends before the next one that is."""
    with MetricsTracker("out", every_n_steps=10) as tracker:
        for step in range(0, 47, 7):
            tracker.log_step(step, float(step))

    assert [10, 20, 30, 40, 43] == _column("epoch")
    assert [2, 1, 2, 1, 1] == _column("batches")
    assert [3.5, 14.0, 24.5, 35.0, 42.0] == _column("loss_mean")


@pytest.mark.slow
@pytest.mark.parametrize("again", [0, 10], ids=["after its row", "a row again"])
def test_a_row_of_a_loop_that_logs_once_a_window_is_whole_after_a_resume(sqlite_uri: str, again: int) -> None:
    """Its one step is all that the loop logs."""
    for steps, status in ((range(9, 30, 10), "FAILED"), (range(39 - again, 50, 10), None)):
        tracker = MetricsTracker("out", every_n_steps=10)
        for step in steps:
            tracker.log_step(step, 1.0)
        tracker.close(status)

    assert _column("epoch") == [10, 20, 30, 40, 50]
    assert _column("partial") == [0, 0, 0, 0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "partial"),
    [(range(4, 60, 5), [0, 0, 0]), (range(19, 60, 20), [0, 0, 0]), (range(13, 60), [1, 0, 0]), ([13, 16, 59], [1, 0])],
    ids=["every fifth", "once a row", "begun late", "begun late, by threes"],
)
def test_a_first_row_is_partial_where_steps_that_the_loop_would_have_logged_are_not_in_it(
    sqlite_uri: str, steps: Sequence[int], partial: list[int]
) -> None:
    """How often the loop logs shows with its second step."""
    with MetricsTracker("out", every_n_steps=20) as tracker:
        for step in steps:
            tracker.log_step(step, 1.0)

    assert _column("partial") == partial


def test_the_axis_is_known_wherever_the_run_is_read_from(sqlite_uri: str) -> None:
    """Plots, report and findings name it Step."""
    from mlflow_ddpm import read_history

    with MetricsTracker("out", every_n_steps=10) as tracker:
        for step in range(20):
            tracker.log_step(step, 1.0)
    stored = MlflowClient(sqlite_uri).get_run(tracker.run_id or "").data.tags

    assert stored["mlflow_ddpm.every_n_steps"] == "10"
    assert json.loads(Path("out/training_metrics.json").read_text())["run"]["every_n_steps"] == 10
    for source in (tracker.run_id or "", "out", "out/training_metrics.json", "out/training_metrics.csv"):
        assert RunHistory.from_frame(read_history(source)).axis_label == "Step", source


def test_mistakes_are_named_at_once(sqlite_uri: str) -> None:
    """And the tracker goes on as if they had not been made."""
    for wrong in (0, -1, 1.5, "3", True):
        with pytest.raises(UsageError, match="every_n_steps must be a whole number >= 1"):
            MetricsTracker("out", every_n_steps=wrong)  # type: ignore[arg-type]
    with MetricsTracker("epochs") as tracker, pytest.raises(UsageError, match="open MetricsTracker"):
        tracker.log_step(0, 1.0)
    with MetricsTracker("out", every_n_steps=10) as tracker:
        for call in (lambda: tracker.start_epoch(0), lambda: tracker.log_batch(1.0), tracker.end_epoch):
            with pytest.raises(UsageError, match="call log_step alone"):
                call()
        tracker.log_step(3, 1.0)
        bad: list[tuple[Any, Any, dict[str, Any]]] = [(3, 1.0, {}), (2, 1.0, {}), (-1, 1.0, {}), (None, 1.0, {})]
        for step, loss, extra in [*bad, (4, "low", {}), (4, 1.0, {"lr@": 1.0}), (4, 1.0, {"loss_mean": 1.0})]:
            with pytest.raises(UsageError):
                tracker.log_step(step, loss, **extra)
        tracker.log_step(4, 3.0)
    for step in (5, 9, 25):  # 25: in a later window
        with pytest.raises(UsageError, match="after the tracker was closed"):
            tracker.log_step(step, 1.0)
    with pytest.raises(UsageError, match="holds a run by steps; pass every_n_steps"):
        MetricsTracker("out", resume=True)

    assert [2.0] == _column("loss_mean")


def test_an_epoch_still_open_at_the_end_is_said_to_be_dropped(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A resume does it again."""
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        tracker = MetricsTracker("out")
        tracker.start_epoch(3)
        tracker.log_batch(1.0)
        tracker.log_batch(1.0)
        tracker.close()

    assert "epoch 3 was still open when the run ended: its 2 batches were dropped" in caplog.text


def test_a_partial_epoch_is_marked(sqlite_uri: str) -> None:
    """After a resume inside it, or where it ends early."""
    with MetricsTracker("out") as tracker:
        for epoch, (begins, ends) in enumerate([(False, False), (True, False), (False, True)]):
            tracker.start_epoch(epoch, partial=begins)
            tracker.log_batch(1.0)
            tracker.end_epoch(partial=ends)

    assert [0, 1, 1] == _column("partial")


TORTURE = """
import os, signal, sys
from mlflow_ddpm import MetricsTracker

first, last, is_killed = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "kill"
tracker = MetricsTracker("out", every_n_steps=1000)
for step in range(first, last):
    tracker.log_step(step, step * 0.5, lr=1e-3, grad_norm=float(step % 7), batch_size=8, extra_one=step)
if is_killed:
    tracker.flush()
    os.kill(os.getpid(), signal.SIGKILL)
tracker.close()
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
print(peak.split()[1])
"""


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1_000_000])
def test_a_million_steps_killed_and_resumed_at_random(sqlite_uri: str, steps: int) -> None:
    """Each row is right, each only once; the store has them all; memory is that of any run."""
    dice = random.Random(7)  # noqa: S311 - a test's dice
    cuts = sorted(dice.sample(range(1, steps), 5))
    checkpoint = 0
    for cut in [*cuts, steps]:
        how = "kill" if cut != steps else "end"
        command = [sys.executable, "-c", TORTURE, str(checkpoint), str(cut), how]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
        assert done.returncode == (-9 if how == "kill" else 0), done.stderr[-2000:]
        checkpoint = max(0, cut - dice.randrange(2500))

    rows = {int(cells["epoch"]): cells for cells in _table()}
    assert sorted(rows) == list(range(1000, steps + 1, 1000))
    for number, cells in rows.items():
        count = int(cells["batches"])
        assert (count < 1000) == (cells["partial"] == "1"), cells
        expected = 0.5 * (number - count + number - 1) / 2
        assert float(cells["loss_mean"]) == pytest.approx(expected, rel=1e-12)
    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    from mlflow_ddpm import read_history

    stored = read_history(run.info.run_id)
    assert run.info.status == "FINISHED"
    assert list(stored["epoch"]) == sorted(rows)
    assert list(stored["loss_mean"]) == [float(rows[number]["loss_mean"]) for number in sorted(rows)]
    assert int(done.stdout) < 600_000  # KiB, torch not imported
