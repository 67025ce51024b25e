"""Which process this is among how many, from whatever launched it.

An initialised ``torch.distributed`` group is asked first; before that, the environment of torchrun, Slurm or MPI.
Nothing here imports torch: a process that has not, has no group.
"""

import os
import sys
from typing import Any

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate, deepspeed
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun without torchrun; SLURM_NTASKS is set in a plain batch script, too
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # mpirun of Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # mpiexec of MPICH and Intel MPI
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),  # MVAPICH2
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),  # jsrun
)


def rank() -> int:
    """Return this process's rank, 0 where nothing launched several."""
    return _ask("get_rank", index=0, default=0)


def world_size() -> int:
    """Return the number of processes, 1 where nothing launched several."""
    return _ask("get_world_size", index=1, default=1)


def describe_launcher() -> str | None:
    """Return the variable that alone numbers this process, as ``SLURM_PROCID=3``; None in a group and without it."""
    names = None if group() is not None else _launcher()
    return names and f"{names[0]}={os.environ[names[0]]}"


def _ask(method: str, *, index: int, default: int) -> int:
    distributed = group()
    if distributed is not None:
        return int(getattr(distributed, method)())
    names = _launcher()
    return default if names is None else int(os.environ[names[index]])


def group() -> Any:
    """Return ``torch.distributed`` if it has an initialised group."""
    distributed = sys.modules.get("torch.distributed")
    has_group = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if has_group else None


def _launcher() -> tuple[str, str] | None:
    """Return the variables of rank and world size that are set."""
    return next((names for names in _LAUNCHERS if all(os.environ.get(name, "").isdigit() for name in names)), None)
