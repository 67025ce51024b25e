"""What the integrations share: the sizes of batches of any form, and steps of several micro-batches."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.integrations.recording import FrameworkMissingError, Recording, batch_size_of
from mlflow_ddpm.tracking import probes


class _Pair(NamedTuple):
    image: torch.Tensor
    label: torch.Tensor


@dataclass
class _Sample:
    name: str
    image: torch.Tensor


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(5, 3), 5),
        ((torch.zeros(5, 3), torch.zeros(5)), 5),
        ([torch.zeros(5, 3), ["a"] * 5], 5),
        ({"name": ["a"] * 5, "image": torch.zeros(5, 3)}, 5),
        (({"image": (torch.zeros(5), torch.zeros(2))}, 7), 5),
        (_Pair(torch.zeros(5, 3), torch.zeros(5)), 5),
        ({"sample": _Sample("a", torch.zeros(5, 3))}, 5),
        ((torch.tensor(0.5), torch.zeros(5)), 5),
        (torch.tensor(0.5), None),
        (["a", "b"], None),
        (None, None),
        ({}, None),
    ],
)
def test_a_batch_is_as_large_as_its_first_tensor_is_long(batch: Any, size: int | None) -> None:
    """Containers and dataclasses, nested or not; a scalar has no length, and a batch without a tensor no size."""
    assert batch_size_of(batch) == size


def test_a_step_is_the_mean_of_its_micro_batches(sqlite_uri: str) -> None:
    """A remainder has fewer; a step without a norm, as of DeepSpeed, has none from the step before."""
    run = Recording("out", 1, {})
    run.end_step(0)  # not open: nothing happens
    run.open({"tracking_uri": sqlite_uri})
    for done, (losses, norm) in enumerate([([1.0, 2.0, 6.0], 4.0), ([5.0], None)], start=1):
        for loss in losses:
            run.add(torch.tensor(loss), 8)
        run.lr, run.grad_norm = 0.1 / done, norm
        run.end_step(done)
    run.end_step(3)  # no micro-batch: no step
    run.end(None)
    with Path("out/training_metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    assert [(row["epoch"], row["loss_mean"], row["grad_norm"]) for row in rows] == [
        ("1", "3.0", "4.0"),
        ("2", "5.0", ""),
    ]
    assert [float(row["lr"]) for row in rows] == [0.1, 0.05]


@pytest.mark.slow
@pytest.mark.parametrize("every", [None, 1])
def test_each_training_warns_once_of_batches_that_are_not_recorded(
    sqlite_uri: str, caplog: pytest.LogCaptureFixture, every: int | None
) -> None:
    """One callback may see several trainings."""
    run = Recording("out", every, {})
    for training in range(2):
        run.open({"tracking_uri": sqlite_uri, "resume": training > 0})
        run.start_epoch(training, partial=False)
        for step, loss in enumerate([torch.zeros(2), torch.tensor(1.0), torch.zeros(3)], start=1 + 3 * training):
            run.add(loss, 8)
            run.end_step(step)
        run.end_epoch(partial=False)
        run.end(None)

        assert sum("a batch was not recorded" in text for text in caplog.messages) == training + 1


@pytest.mark.slow
def test_a_device_that_fails_in_a_pause_leaves_no_run_open(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving the pause waits for the device; in a notebook the run would stay RUNNING."""
    run = Recording("out", None, {})
    run.open({"tracking_uri": sqlite_uri})
    run.start_epoch(0, partial=False)
    run.pause()

    def fail(_: Any) -> None:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(probes, "synchronize", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        run.end(ValueError("broken"))

    assert run.status == "FAILED"
    assert run.has_ended


def test_a_wrong_argument_is_an_error_where_it_is_written() -> None:
    """Not minutes later, when the framework begins to train and the tracker is made."""
    with pytest.raises(TypeError, match=r"^'run_nam' is no option of the tracker; its options are config, run_name, "):
        Recording("out", None, {"run_nam": "first"})
    for every in (0, -1, "x", True, 1.5):
        with pytest.raises(UsageError, match=r"^every_n_steps must be a whole number >= 1, got "):
            Recording("out", every, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'x'", name="x"), "X is not installed; install it with: pip install x y"),
        (ModuleNotFoundError("No module named 'x.y'", name="x.y"), "X is not installed; install it"),
        (ModuleNotFoundError("No module named 'z'", name="z"), "X cannot be imported (No module named 'z'); upgrade"),
        (ImportError("z>=2 is required,\nfound 1"), "X cannot be imported (z>=2 is required,); upgrade it with: pip"),
    ],
)
def test_a_framework_that_is_there_but_broken_is_not_called_missing(error: ImportError, message: str) -> None:
    """Its own error stands in the line."""
    assert str(FrameworkMissingError("X", "x y", error)).startswith(message)
