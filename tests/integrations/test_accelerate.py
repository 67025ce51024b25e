"""What ``accelerator.log`` is given in uncommon ways: odd names and values, no loss, steps that fall, wrong options."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from mlflow_ddpm.core.errors import UsageError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def _column(name: str, directory: str = "out") -> list[float]:
    with Path(directory, "training_metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(cells[name] or "nan") for cells in csv.DictReader(file)]


def test_accelerate_drops_what_cannot_be_recorded_and_logs_once_however_often_it_was_begun(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A measurement never ends a training."""
    from accelerate import Accelerator

    from mlflow_ddpm.integrations.accelerate import AccelerateTracker

    accelerator = Accelerator(cpu=True, log_with=AccelerateTracker("out", every_n_steps=4))
    odd = {
        "a,b": 1.0,
        "live/x": 1.0,
        "good/sub": 1.0,
        5: 1.0,
        "big": 10**400,
        "text": "x",
        "lr": "0.1",
        "w": torch.ones(3),
    }
    for run in range(2):
        accelerator.init_trackers("project", config={"run": run})
        accelerator.init_trackers("project")
        for step in range(1, 9):
            accelerator.log({"loss": float(step), "good": 2.0, "batch_size": 4.0, **odd}, step=step)
        for loss, number in ((torch.ones(3), 9), (1.0, "x"), (1.0, -3)):
            accelerator.log({"loss": loss}, step=number)
        accelerator.end_training()
        accelerator.log({"loss": 1.0}, step=10)
        assert (_column("epoch"), _column("batches"), _column("loss_mean")) == ([4, 8], [4, 4], [2.5, 6.5])
        assert _column("good") == [2, 2]

    for refused in (
        "'a,b'",
        "live/ is taken",
        "both a metric and a folder",
        "big must",
        "loss must",
        "step must",
        "lr must",
    ):
        assert sum(refused in text for text in caplog.messages) == 1, refused


def test_accelerate_takes_train_loss_and_says_when_there_is_no_loss(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """``train_loss`` is what diffusers' text-to-image script logs; a tracker that was ended can begin anew."""
    from accelerate import Accelerator

    from mlflow_ddpm.integrations.accelerate import AccelerateTracker

    def train(name: str) -> None:
        accelerator = Accelerator(cpu=True, log_with=log_with)
        accelerator.init_trackers("project", config={"name": name})
        for step in range(1, 5):
            accelerator.log({name: torch.tensor(float(step)), "lr": 0.1}, step=step)
        accelerator.end_training()

    log_with = AccelerateTracker("out", every_n_steps=2)
    train("train_loss")
    assert _column("loss_mean") == [1.5, 3.5]
    train("step_loss")
    assert "no row was made, for no value was named loss; accelerator.log got step_loss" in caplog.text
    assert {run.data.params["name"] for run in MlflowClient(sqlite_uri).search_runs(["0"])} == {
        "train_loss",
        "step_loss",
    }


def test_accelerate_counts_what_comes_without_a_loss_in_the_window_of_its_step(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A generator and a discriminator in turn, an epoch's mean loss, norms by parameter, a step that falls."""
    from accelerate import Accelerator

    from mlflow_ddpm.integrations.accelerate import AccelerateTracker

    accelerator = Accelerator(cpu=True, log_with=AccelerateTracker("out", every_n_steps=4))
    accelerator.init_trackers("project", config=Namespace(lr=0.1))
    for step in range(1, 11):
        accelerator.log({"loss": float(step)} if step % 2 else {"disc_loss": float(step), "lr": 0.1}, step=step)
        accelerator.log({"grad_norm/a": 1.0, "grad_norm/b": 1.0, "train_loss": 50.0}, step=torch.tensor(step))
    accelerator.log({"loss": 99.0}, step=3)
    accelerator.end_training()

    assert (_column("epoch"), _column("loss_mean")) == ([4, 8, 9], [2, 6, 9])
    assert (_column("disc_loss"), _column("train_loss")) == ([3, 7, 10], [50, 50, 50])
    assert [run.data.params for run in MlflowClient(sqlite_uri).search_runs(["0"])] == [{"lr": "0.1"}]
    assert [text.split("; ")[0] for text in caplog.messages if "accelerator.log" in text] == [
        "accelerator.log: 'grad_norm' cannot be both a metric and a folder of metrics",
        "accelerator.log: lr came without a loss and is not recorded",
        "accelerator.log: step must not fall, got 3 after 9",
    ]


@pytest.mark.parametrize("every", [1, 2])
def test_accelerate_records_the_mean_of_all_that_came_since_the_last_row(sqlite_uri: str, every: int) -> None:
    """A discriminator has several steps after a window has ended, and one with the generator."""
    from accelerate import Accelerator

    from mlflow_ddpm.integrations.accelerate import AccelerateTracker

    accelerator = Accelerator(cpu=True, log_with=AccelerateTracker("out", every_n_steps=every))
    accelerator.init_trackers("project")
    accelerator.log({"disc": 7.0}, step=0)
    accelerator.log({"disc": 9.0}, step=0)
    for step in (1, 2):
        accelerator.log({"loss": 1.0}, step=step)
    for step, value in ((3, 1.0), (4, torch.tensor(2.0)), (5, 6.0)):
        accelerator.log({"disc": value}, step=step)
    accelerator.log({"loss": 1.0, "disc": 7.0}, step=6)
    accelerator.end_training()

    assert _column("disc")[0] == 8
    assert _column("disc")[-1] == 4


def test_accelerate_refuses_wrong_options_at_once_and_says_soon_and_late_what_has_no_row(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not after the model was loaded, nor when the training has ended."""
    from accelerate import Accelerator

    from mlflow_ddpm.integrations.accelerate import AccelerateTracker

    for options, message in (
        ({"every_n_steps": None}, "must be a whole number"),
        ({"epochs": 1}, "'epochs'"),
        ({"reduce_over_ranks": True}, "on the main process alone"),
    ):
        with pytest.raises((UsageError, TypeError), match=message):
            AccelerateTracker("out", **options)
    accelerator = Accelerator(cpu=True, log_with=AccelerateTracker("out", every_n_steps=2))
    accelerator.init_trackers("project")
    accelerator.log({"step_loss": 1.0}, step=2)  # as an evaluation after a resume: a loss may follow
    assert not [text for text in caplog.messages if "accelerator.log" in text]
    accelerator.log({"step_loss": 1.0}, step=4)
    assert "no value was named loss; accelerator.log got step_loss" in caplog.text
    accelerator.log({"loss": 1.0}, step=6)
    accelerator.log({"val_loss": 1.0}, step=6)
    accelerator.end_training()

    assert _column("step_loss") == [1]
    assert "val_loss came after the last row and is not recorded" in caplog.text
