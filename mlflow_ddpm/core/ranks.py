"""Which process this is among how many, from whatever launched it.

An initialised ``torch.distributed`` group is asked first; before that, the environment of torchrun, Slurm or MPI.
Nothing here imports torch: a process that has not, has no group.
"""

import os
import sys
from typing import Any

_LAUNCHERS: tuple[tuple[str, str | None], ...] = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate, deepspeed
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun without torchrun; SLURM_NTASKS is set in a plain batch script, too
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),  # mpirun of Open MPI
    ("PMI_RANK", "PMI_SIZE"),  # mpiexec of MPICH and Intel MPI
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),  # MVAPICH2
    ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE"),  # jsrun
    ("PMIX_RANK", None),  # prterun, and what else starts processes by PMIx: their number is in no variable
)


def rank() -> int:
    """Return this process's rank, 0 where nothing launched several."""
    if (distributed := group()) is not None:
        return int(distributed.get_rank())
    names = _launcher()
    return int(os.environ[names[0]]) if names else 0


def world_size() -> int:
    """Return the number of processes, 1 where nothing launched several; those up to this one if no more is known."""
    if (distributed := group()) is not None:
        return int(distributed.get_world_size())
    names = _launcher()
    if names is None:
        return 1
    return int(os.environ[names[1]]) if names[1] else rank() + 1


def is_world_size_known() -> bool:
    """Return whether :func:`world_size` is the same number on every rank."""
    names = None if group() is not None else _launcher()
    return not names or bool(names[1])


def describe_launcher() -> str | None:
    """Return what numbers a process that has no group, as ``SLURM_PROCID=3 makes it rank 3 of 8``; else None."""
    names = None if group() is not None else _launcher()
    of_all = f" of {world_size()}" if names and names[1] else ""
    return names and f"{names[0]}={os.environ[names[0]]} makes it rank {rank()}{of_all}"


def group() -> Any:
    """Return ``torch.distributed`` if it has an initialised group."""
    distributed = sys.modules.get("torch.distributed")
    has_group = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if has_group else None


def _launcher() -> tuple[str, str | None] | None:
    """Return the variables of rank and world size that are set."""
    known = (names for names in _LAUNCHERS if all(os.environ.get(name, "").isdigit() for name in filter(None, names)))
    return next(known, None)
