"""Which rows of a batch a process takes, and what it leaves as it was."""

from __future__ import annotations

import contextlib

import pytest
import torch

from mlflow_ddpm.core.errors import ConfigError
from mlflow_ddpm.ddpm.training.distributed import Processes, choose_device, cpu_threads, processes


@pytest.mark.parametrize(("size", "world_size"), [(64, 1), (64, 4), (29, 2), (2, 4)])
def test_processes_share_a_batch_without_overlap(size: int, world_size: int) -> None:
    """Each row is exactly one process's."""
    shares = [Processes(r, world_size, torch.device("cpu")).share(size) for r in range(world_size)]
    rows = [list(range(size))[taken][:count] for taken, count, _ in shares]

    assert sorted(row for part in rows for row in part) == list(range(size))
    assert max(map(len, rows)) - min(map(len, rows)) <= 1
    assert sum(weight * count for _, count, weight in shares) == pytest.approx(world_size)


def test_threads_are_those_asked_for_and_afterwards_the_callers_again() -> None:
    """A library must not change the caller's torch for good, not even after an error."""
    with contextlib.suppress(KeyError), cpu_threads(2):
        inside = torch.get_num_threads()
        raise KeyError
    with cpu_threads(0):
        untouched = torch.get_num_threads()

    assert (inside, untouched, torch.get_num_threads()) == (2, 1, 1)


def test_without_a_launcher_there_is_one_process_whose_values_are_its_own() -> None:
    """No group is made, and a collective is a no-op."""
    with processes("cpu") as alone:
        values = torch.arange(3.0)
        assert alone == Processes(0, 1, torch.device("cpu"))
        assert alone.is_first
        assert alone.sum_over_ranks(values) is values
        assert alone.gather("here") == ["here"]
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_device_that_is_not_there_is_refused_and_auto_takes_the_cpu() -> None:
    """The message names both ways out."""
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="finds no CUDA device; use --device cpu or auto"):
        choose_device("cuda")
