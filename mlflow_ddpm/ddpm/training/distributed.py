"""Processes that train together: rank and device of each, and which images of a batch it takes.

Processes are started by torchrun, on one machine or many; without it there is one process and no group.
"""

import datetime as dt
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import distributed, nn

from mlflow_ddpm.core.errors import ConfigError

# How long a rank waits for the others in a collective: rank 0 alone draws and evaluates samples, minutes on a slow CPU.
_COLLECTIVE_TIMEOUT = dt.timedelta(minutes=30)


class Share(NamedTuple):
    """The rows of a batch that one process takes."""

    rows: slice
    size: int  # how many they are; 0: one image with weight 0
    weight: float  # of an image in the process's loss


class Processes(NamedTuple):
    """This process among those that train together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes and draws."""
        return self.rank == 0

    def share(self, batch_size: int) -> Share:
        """Return this process's share of a batch of all processes: every ``world_size``-th row, from its rank.

        DDP averages gradients over ranks; with the weight that is the mean over all images of the batch, however uneven
        the shares are. Where images are fewer than processes, a process without one computes the first row with weight
        0: every process has to enter the collective of the backward pass.
        """
        size = len(range(self.rank, batch_size, self.world_size))
        if size == 0:
            return Share(slice(0, 1), 0, 0.0)
        return Share(slice(self.rank, batch_size, self.world_size), size, self.world_size / batch_size)

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of every process's tensor. A collective: all must call it, with tensors of one shape."""
        if self.world_size == 1:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, by rank. A collective."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        distributed.all_gather_object(values, value)
        return values

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the module whose backward pass averages gradients over all processes: the model itself if alone."""
        if self.world_size == 1:
            return model
        return nn.parallel.DistributedDataParallel(
            model, device_ids=[self.device] if self.device.type == "cuda" else None
        )


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, if it did, and leave them at the end.

    ``device`` is ``auto``, ``cpu`` or ``cuda``; with CUDA each process takes the card of its local rank. A group that
    the caller has initialised already is used, and left as it is. Raises as :func:`choose_device`.
    """
    chosen = choose_device(device)
    is_ours = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized()
    if is_ours:
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=_COLLECTIVE_TIMEOUT)
    if distributed.is_initialized():
        yield Processes(distributed.get_rank(), distributed.get_world_size(), chosen)
    else:
        yield Processes(0, 1, chosen)
    # Not in a finally: after an error the other ranks may wait elsewhere, and leaving in order would wait for them.
    if is_ours:
        distributed.destroy_process_group()


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads inside ``with``; 0 changes nothing."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_device(device: str) -> torch.device:
    """Return the device that ``auto``, ``cpu`` or ``cuda`` means here; raise ConfigError where there is no CUDA."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError("train.device is cuda, but torch finds no CUDA device; use --device cpu or auto")
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(chosen)
    return chosen
