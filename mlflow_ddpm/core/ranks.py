"""Which process this is among how many, from whatever launched it.

An initialised ``torch.distributed`` group is asked first; before that, the environment of torchrun, Slurm or Open MPI.
Nothing here imports torch: a process that has not, has no group.
"""

from __future__ import annotations

import os
import sys

__all__ = ["rank", "world_size"]

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate, deepspeed
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun without torchrun; SLURM_NTASKS is set in a plain batch script, too
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # mpirun
)


def rank() -> int:
    """Return this process's rank, 0 where nothing launched several."""
    return _ask("get_rank", index=0, default=0)


def world_size() -> int:
    """Return the number of processes, 1 where nothing launched several."""
    return _ask("get_world_size", index=1, default=1)


def _ask(method: str, *, index: int, default: int) -> int:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(getattr(distributed, method)())
    for names in _LAUNCHERS:
        told = [os.environ.get(name, "") for name in names]
        if all(value.isdigit() for value in told):
            return int(told[index])
    return default
