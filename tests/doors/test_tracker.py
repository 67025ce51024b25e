"""The tracker in a training loop, against real local stores."""

from __future__ import annotations

import csv
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from support.common import HandClock, slow
from torch import nn

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.core.errors import StoreRefusedError, UsageError


def _train(tracker: MetricsTracker, epochs: range, *, extra: bool = False) -> None:
    for epoch in epochs:
        tracker.start_epoch(epoch)
        for batch in range(3):
            tracker.log_batch(loss=1.0 / (epoch + 1) + batch, lr=0.1, grad_norm=2.0, batch_size=8)
        tracker.end_epoch(extra={"fid": 10.0 - epoch} if extra else None)


def _table(directory: str | Path) -> list[dict[str, str]]:
    with (Path(directory) / "training_metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _stored(uri: str, run_id: str | None) -> dict[str, list[tuple[int, float, int]]]:
    assert run_id
    client = MlflowClient(uri)
    keys = [key for key in client.get_run(run_id).data.metrics if not key.startswith("summary/")]  # of the run
    return {k: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run_id, k)] for k in keys}


def test_every_measured_field_of_every_epoch_is_one_point_in_the_store_equal_to_the_csv(store_uri: str) -> None:
    """Step is the epoch, the timestamp is the row's, the value is the same to the last bit."""
    with MetricsTracker("out", tracking_uri=store_uri) as tracker:
        _train(tracker, range(4), extra=True)

    stored = _stored(store_uri, tracker.run_id)
    expected: dict[str, list[tuple[int, float, int]]] = {}
    for cells in _table("out"):
        for name, cell in cells.items():
            if cell and name not in ("epoch", "logged_at_ms"):
                point = (int(cells["epoch"]), float(cell), int(cells["logged_at_ms"]))
                expected.setdefault(name, []).append(point)

    assert expected == stored
    assert {"loss_mean", "fid", "nonfinite_batches", "epoch_time_sec"} <= stored.keys()


def test_times_and_rates_follow_the_clock(sqlite_uri: str, clock: HandClock) -> None:
    """Seconds from start_epoch to end_epoch, less what was paused; rates are over those seconds."""
    with MetricsTracker("out", clock=clock) as tracker:
        tracker.start_epoch(0)
        for _ in range(4):
            tracker.log_batch(1.0, batch_size=16)
            clock.seconds += 2.0
        with tracker.paused():
            clock.seconds += 1000.0
        first = tracker.end_epoch()
        clock.seconds += 500.0
        tracker.start_epoch(1)
        clock.seconds += 4.0
        second = tracker.end_epoch()

    assert first is not None
    assert second is not None
    assert (first.epoch_time_sec, first.samples_per_sec, first.batches_per_sec) == (8.0, 8.0, 0.5)
    assert (second.epoch_time_sec, second.cumulative_time_sec) == (4.0, 12.0)
    assert (second.loss_mean, second.samples_per_sec, second.batches_per_sec) == (None, None, 0.0)


@pytest.mark.slow
def test_the_specifications_usage_runs_as_it_stands(sqlite_uri: str) -> None:
    """But for the package's name. No manual set-up, no close: the process's end ends the run."""
    code = textwrap.dedent("""
        import torch
        from torch import nn
        model, TRAINING_CONFIG, num_epochs = nn.Linear(4, 1), {"lr": 1e-2, "data": {"name": "toy"}}, 3
        ema_model = torch.optim.swa_utils.AveragedModel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=TRAINING_CONFIG["lr"])
        dataloader = [torch.randn(8, 4) for _ in range(5)]
        def train_step(batch):
            optimizer.zero_grad()
            loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
            loss.backward()
            optimizer.step()
            ema_model.update_parameters(model)
            return loss

        # Programmatic usage (if integrating into a custom loop)
        from mlflow_ddpm import MetricsTracker, generate_all_plots, generate_report
        from mlflow_ddpm.tracker import compute_grad_norm

        tracker = MetricsTracker(output_dir="./my_metrics")

        for epoch in range(num_epochs):
            tracker.start_epoch(epoch)

            for batch in dataloader:
                loss = train_step(batch)
                grad_norm = compute_grad_norm(model)
                tracker.log_batch(loss=loss.item(), lr=optimizer.param_groups[0]["lr"], grad_norm=grad_norm)

            tracker.end_epoch(model=model, ema_model=ema_model)

        # Generate outputs
        plot_paths = generate_all_plots(tracker, save_dir="./my_metrics")
        generate_report(tracker, config=TRAINING_CONFIG, save_dir="./my_metrics", plot_paths=plot_paths)
    """)

    subprocess.run([sys.executable, "-W", "error::UserWarning:mlflow_ddpm", "-c", code], check=True, timeout=120)

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert [0, 1, 2] == [p.step for p in MlflowClient(sqlite_uri).get_metric_history(run.info.run_id, "ema_delta_norm")]
    assert {
        *("training_metrics.csv", "training_metrics.json", "training_report.md", "training_report.html"),
        *("loss_linear.png", "loss_log.png"),
        *("loss_distribution.png", "learning_rate.png", "grad_norm.png", "throughput.png", "gpu_memory.png"),
        *("ema_divergence.png", "epoch_timing.png", "loss_derivative.png", "training_dashboard.png"),
    } == {path.name for path in Path("my_metrics").iterdir() if not path.name.startswith(".")}


def test_the_active_run_is_used_and_left_to_the_caller(sqlite_uri: str) -> None:
    """Whoever started a run ends it."""
    with mlflow.start_run() as run:
        with MetricsTracker("out") as tracker:
            _train(tracker, range(1))
        status = MlflowClient().get_run(run.info.run_id).info.status

    assert tracker.run_id == run.info.run_id
    assert status == "RUNNING"


def test_the_run_of_mlflow_run_id_is_used(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `mlflow run` sets it; the variable stays for child processes."""
    run_id = MlflowClient(sqlite_uri).create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)

    with MetricsTracker("out") as tracker:
        _train(tracker, range(1))

    assert tracker.run_id == run_id
    assert os.environ["MLFLOW_RUN_ID"] == run_id
    assert [0] == [p.step for p in MlflowClient().get_metric_history(run_id, "loss_mean")]


def test_experiment_and_names_come_from_arguments_or_mlflows_settings(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An experiment that is missing is made."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the environment")
    MetricsTracker("a").close()
    MetricsTracker("b", experiment_name="from the argument", run_name="my run").close()
    mlflow.set_experiment("from set_experiment")
    MetricsTracker("c").close()

    client = MlflowClient(sqlite_uri)
    runs = {
        e.name: [r.info.run_name for r in client.search_runs([e.experiment_id])] for e in client.search_experiments()
    }

    assert [1, 1, 1] == [
        len(runs[name]) for name in ("from the environment", "from the argument", "from set_experiment")
    ]
    assert runs["from the argument"] == ["my run"]


def test_config_becomes_params_and_what_mlflow_run_logged_is_left_alone(sqlite_uri: str) -> None:
    """Nested keys are dotted. Params cannot change; mlflow run logs its own, quoted for a shell."""
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run("0").info.run_id
    client.log_param(run_id, "lr", "'0.0010'")
    config = {"lr": 0.001, "model": {"mults": (1, 2), "name": "U-Net", "dropout": None}, "odd@key": Path("x")}

    with MetricsTracker("out", run_id=run_id, config=config) as tracker:
        _train(tracker, range(1))

    assert {
        "lr": "'0.0010'",
        "model.mults": "[1, 2]",
        "model.name": "U-Net",
        "model.dropout": "None",
        "odd_key": "x",
    } == client.get_run(run_id).data.params


def test_versions_device_and_world_size_are_tags(sqlite_uri: str) -> None:
    """What one asks first of an old run."""
    with MetricsTracker("out", tags={"team": "blue"}) as tracker:
        pass

    tags = MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).data.tags

    assert (tags["env.torch"], tags["env.device"], tags["env.world_size"]) == (version("torch"), "cpu", "1")
    assert tags["team"] == "blue"


class StopError(Exception):
    """Stands for whatever a training may raise."""


def test_an_exception_ends_the_run_as_failed_and_says_why(sqlite_uri: str) -> None:
    """The rows before it are kept; the exception goes on."""
    tracker = MetricsTracker("out")
    _train(tracker, range(2))
    tracker.start_epoch(2)
    with pytest.raises(StopError), tracker:
        raise StopError("out of luck")

    run = MlflowClient(sqlite_uri).get_run(str(tracker.run_id))

    assert run.info.status == "FAILED"
    assert (run.data.tags["error.type"], run.data.tags["error.message"]) == ("StopError", "out of luck")
    assert ["0", "1"] == [cells["epoch"] for cells in _table("out")]


@pytest.mark.parametrize(("ending", "status"), [slow("pass", "FINISHED"), ("1 / 0", "FAILED")])
def test_without_a_with_block_the_interpreters_end_ends_the_run_truthfully(
    sqlite_uri: str, ending: str, status: str
) -> None:
    """MLflow itself would say FINISHED in both cases."""
    code = f"""
from mlflow_ddpm import MetricsTracker
tracker = MetricsTracker("out")
tracker.start_epoch(0); tracker.log_batch(1.0); tracker.end_epoch()
{ending}
"""
    subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL, timeout=120)

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    assert run.info.status == status
    assert run.data.metrics["loss_mean"] == 1.0


@pytest.mark.parametrize(("signum", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_the_run_as_killed_and_finally_blocks_run(
    sqlite_uri: str, signum: signal.Signals, raised: type[BaseException]
) -> None:
    """Where no handler of the user's own is installed; what it raises ends a process with an error status."""

    def train() -> None:
        with MetricsTracker("out") as tracker:
            _train(tracker, range(1))
            try:
                os.kill(os.getpid(), signum)
                time.sleep(60)
            finally:
                Path("cleaned-up").touch()

    with pytest.raises(raised) as caught:
        train()

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    assert run.info.status == "KILLED"
    assert run.data.metrics["loss_mean"] == 2.0
    assert Path("cleaned-up").exists()
    assert caught.value.args != (0,)


def test_a_signal_handler_of_ones_own_still_runs(sqlite_uri: str) -> None:
    """A job that saves and leaves by itself when Slurm asks it to is KILLED all the same."""
    asked: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda signum, _: asked.append(signum))
    try:
        with MetricsTracker("out") as tracker:
            for epoch in range(100):
                _train(tracker, range(epoch, epoch + 1))
                if asked:
                    break
                if epoch == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)

    assert asked == [signal.SIGTERM]
    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    assert run.info.status == "KILLED"
    assert run.data.tags["error.type"] == "SIGTERM"
    assert len(_table("out")) in (3, 4)


def test_a_killed_run_goes_on_where_it_was(sqlite_uri: str) -> None:
    """The same run, one row per epoch, the last one written wins, and the time goes on."""
    clock = HandClock()
    code = """
import os, signal
from mlflow_ddpm import MetricsTracker
tracker = MetricsTracker("out", clock=lambda: 0.0)
for epoch in range(3):
    tracker.start_epoch(epoch); tracker.log_batch(float(epoch)); tracker.end_epoch()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    with MetricsTracker("out", clock=clock) as tracker:
        resumed_at = tracker.next_epoch
        for epoch in (2, 3):
            tracker.start_epoch(epoch)
            clock.seconds += 5
            tracker.log_batch(100.0 + epoch)
            tracker.end_epoch()

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    rows = _table("out")

    assert resumed_at == 3
    assert (run.info.run_id, run.info.status) == (tracker.run_id, "FINISHED")
    assert [("0", "0.0"), ("1", "1.0"), ("2", "102.0"), ("3", "103.0")] == [(r["epoch"], r["loss_mean"]) for r in rows]
    assert rows[-1]["cumulative_time_sec"] == "10.0"


def test_a_finished_run_is_moved_aside_by_the_next_and_continued_if_asked(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same loop again is a new run; nothing of the first is lost or mixed with it, one line says where it is."""
    runs = []
    for epochs in (2, 3, 1):
        with MetricsTracker("out") as tracker:
            _train(tracker, range(epochs))
            Path("out/plot.png").write_text(str(epochs))
        runs.append(tracker.run_id)
    with MetricsTracker("out", resume=True) as again:
        _train(again, range(1, 2))

    assert len(set(runs)) == 3
    assert again.run_id == runs[-1]
    assert [2, 3, 2] == [len(_table(name)) for name in ("out-1", "out-2", "out")]
    assert ["2", "3", "1"] == [Path(name, "plot.png").read_text() for name in ("out-1", "out-2", "out")]
    lines = [message for message in caplog.messages if "held the finished run" in message]
    assert ["out-1", "out-2"] == [line.partition("directory is now ")[2].partition(",")[0] for line in lines]
    assert not [line for line in lines if "sync" in line]


def test_a_finished_run_that_is_asked_for_by_its_id_is_not_mixed_with_a_second_history(sqlite_uri: str) -> None:
    """The error names the two ways on."""
    with MetricsTracker("out") as tracker:
        _train(tracker, range(2))

    with pytest.raises(UsageError, match=r"holds the finished run .* \(2 rows\); choose another .* resume=True"):
        MetricsTracker("out", run_id=tracker.run_id)
    assert len(_table("out")) == 2


def test_a_finished_run_that_mlflow_does_not_have_is_sent_from_where_it_was_moved(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names the command."""
    with MetricsTracker("out", tracking_uri="http://127.0.0.1:9") as tracker:
        _train(tracker, range(2))
        tracker.close(timeout=0.1)
    with MetricsTracker("out"):
        pass

    assert "from where `mlflow-ddpm sync out-1` sends what MLflow does not have yet" in caplog.text


def test_mistakes_raise_at_once_and_say_what_to_do(sqlite_uri: str) -> None:
    """And the tracker goes on as if they had not been made."""
    with MetricsTracker("out") as tracker:
        with pytest.raises(UsageError, match="log_batch needs an open epoch; call start_epoch first"):
            tracker.log_batch(1.0)
        with pytest.raises(UsageError, match="end_epoch needs an open epoch"):
            tracker.end_epoch()
        for wrong in (-1, 1.5, "3", True, 2**63):
            with pytest.raises(UsageError, match="epoch must be a whole number >= 0"):
                tracker.start_epoch(wrong)  # type: ignore[arg-type]
        tracker.start_epoch(0)
        with pytest.raises(UsageError, match="epoch 0 is still open"):
            tracker.start_epoch(1)
        with pytest.raises(UsageError, match="MLflow would refuse the metric name 'a@b'"):
            tracker.end_epoch(extra={"a@b": 1.0})
        with pytest.raises(UsageError, match="'fid' must be a real number"):
            tracker.end_epoch(extra={"fid": "low"})  # type: ignore[dict-item]
        with pytest.raises(UsageError, match="ema_model without model"):
            tracker.end_epoch(ema_model=nn.Linear(1, 1))
        tracker.end_epoch(extra={"fid": torch.tensor(3.0), "skipped": None})
        for path in (7, None, b"x", ["x"]):
            with pytest.raises(UsageError, match="log_artifact takes the path of a file"):
                tracker.log_artifact(path)  # type: ignore[arg-type]

    assert ["3.0"] == [cells["fid"] for cells in _table("out")]


def test_an_unknown_run_is_refused_before_training_begins(sqlite_uri: str) -> None:
    """A run that is asked for and is not there is a mistake, not an outage."""
    with pytest.raises(StoreRefusedError, match="0123456789abcdef0123456789abcdef"):
        MetricsTracker("out", run_id="0123456789abcdef0123456789abcdef")


def test_a_store_that_is_away_is_a_warning_and_the_rows_wait(caplog: pytest.LogCaptureFixture, sqlite_uri: str) -> None:
    """Nobody listens on the port. Training goes on; sync sends everything later, with the first timestamps."""
    from mlflow_ddpm.tracking.sync import sync_directory

    with caplog.at_level(logging.WARNING, "mlflow_ddpm"):
        tracker = MetricsTracker("out", tracking_uri="http://127.0.0.1:9", config={"lr": 0.1})
        _train(tracker, range(3), extra=True)
        delivered = tracker.close(timeout=0.5)
    first = caplog.records[0].getMessage()

    said = sync_directory(Path("out"), tracking_uri=sqlite_uri)
    again = sync_directory(Path("out"), tracking_uri=sqlite_uri)

    (run,) = MlflowClient(sqlite_uri).search_runs(["0"])
    stored = _stored(sqlite_uri, run.info.run_id)
    assert delivered is False
    assert "Training continues" in first
    assert "mlflow-ddpm sync out" in first
    assert "(3 rows)" in said
    assert "was complete" in again
    assert [(int(r["epoch"]), float(r["fid"]), int(r["logged_at_ms"])) for r in _table("out")] == stored["fid"]
    assert (run.info.status, run.data.params) == ("FINISHED", {"lr": "0.1"})


def test_pictures_are_kept_on_disk_and_logged_by_step(sqlite_uri: str) -> None:
    """The run page's image view finds them; so does whoever has the directory."""
    image = np.arange(64 * 3, dtype=np.uint8).reshape(8, 8, 3)
    with MetricsTracker("out") as tracker:
        tracker.log_image("samples", image, epoch=7)
        with pytest.raises(UsageError, match="uint8 of shape"):
            tracker.log_image("samples", image.astype(np.float32), epoch=8)
        with pytest.raises(UsageError, match="a picture's name"):
            tracker.log_image("../samples", image, epoch=8)

    client = MlflowClient(sqlite_uri)
    logged = [f.path for f in client.list_artifacts(str(tracker.run_id), "images")]
    assert Path("out/samples/samples_epoch_000007.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert any("samples" in name and "7" in name and name.endswith(".png") for name in logged), logged
    assert ["metrics/samples/samples_epoch_000007.png"] == [
        f.path for f in client.list_artifacts(str(tracker.run_id), "metrics/samples")
    ]


def test_a_nan_is_tagged_and_warned_about_once_with_epoch_and_batch(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Counting goes on, silently."""
    with caplog.at_level(logging.WARNING, "mlflow_ddpm"), MetricsTracker("out") as tracker:
        for epoch in range(2):
            tracker.start_epoch(epoch)
            for loss in (1.0, math.nan, math.inf):
                tracker.log_batch(loss)
            tracker.end_epoch()

    assert len(caplog.records) == 1
    assert "in 2 batches of epoch 0, first in batch 1" in caplog.text
    assert ["2", "2"] == [cells["nonfinite_batches"] for cells in _table("out")]
    tags = MlflowClient(sqlite_uri).get_run(str(tracker.run_id)).data.tags
    assert tags["mlflow_ddpm.nonfinite"] == "first in epoch 0"


def test_other_ranks_write_nothing_and_never_import_mlflow() -> None:
    """Every method returns at once, whatever launched the process."""
    code = """
import sys
from mlflow_ddpm import MetricsTracker, generate_all_plots, generate_report
with MetricsTracker("out", config={"a": 1}) as tracker:
    tracker.start_epoch(0)
    tracker.log_batch(loss=1.0, lr=0.1, grad_norm=2.0, batch_size=4)
    with tracker.paused():
        tracker.log_image("x", None, 0)
    assert tracker.end_epoch(extra={"fid": 1.0}) is None
    assert tracker.run_id is None and tracker.next_epoch == 1 and tracker.flush()
    assert generate_all_plots(tracker, save_dir="out") == {}
    generate_report(tracker, config={}, save_dir="out")
heavy = {"mlflow", "torch", "pandas", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        size = {"RANK": "WORLD_SIZE", "SLURM_PROCID": "SLURM_STEP_NUM_TASKS"}.get(name, "OMPI_COMM_WORLD_SIZE")
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, name: "1", size: "2"}, timeout=60)

    assert not Path("out").exists()


RANK_PROGRAM = """
import sys
import torch
import torch.distributed as dist
from mlflow_ddpm import MetricsTracker

rank, place = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{place}/rendezvous", rank=rank, world_size=2)
with MetricsTracker(f"{place}/out", reduce_over_ranks=True) as tracker:
    tracker.start_epoch(0)
    for batch in range(3):
        tracker.log_batch(torch.tensor(float(batch + 10 * rank)), batch_size=4 + rank)
    tracker.end_epoch()
assert ("mlflow" in sys.modules) == (rank == 0)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_losses_are_means_and_samples_sums_over_ranks_if_asked(sqlite_uri: str, tmp_path: Path) -> None:
    """One collective at the end of the epoch; rank 0 alone writes."""
    command = [sys.executable, "-c", RANK_PROGRAM]
    env = {**os.environ, "WORLD_SIZE": "2"}
    ranks = [subprocess.Popen([*command, str(n), str(tmp_path)], env={**env, "RANK": str(n)}) for n in (0, 1)]

    assert [0, 0] == [process.wait(timeout=120) for process in ranks]
    (cells,) = _table("out")
    samples = float(cells["samples_per_sec"]) * float(cells["epoch_time_sec"])
    assert (cells["loss_min"], cells["loss_mean"], cells["loss_max"]) == ("5.0", "6.0", "7.0")
    assert samples == pytest.approx(27)
