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
    ("PMIX_RANK", ""),  # prterun, and what else starts processes by PMIx: their number is in no variable
)


def rank() -> int:
    """Return this process's rank, 0 where nothing launched several."""
    return _ask("get_rank", index=0, default=0)


def world_size() -> int:
    """Return the number of processes, 1 where nothing launched several; those up to this one if no more is known."""
    return _ask("get_world_size", index=1, default=1)


def describe_launcher() -> str | None:
    """Return what numbers a process that has no group, as ``SLURM_PROCID=3 makes it rank 3 of 8``; else None."""
    names = None if group() is not None else _launcher()
    of_all = f" of {world_size()}" if names and names[1] else ""
    return names and f"{names[0]}={os.environ[names[0]]} makes it rank {rank()}{of_all}"


def _ask(method: str, *, index: int, default: int) -> int:
    distributed = group()
    if distributed is not None:
        return int(getattr(distributed, method)())
    names = _launcher()
    if names is None:
        return default
    return int(os.environ[names[index]]) if names[index] else rank() + 1


def group() -> Any:
    """Return ``torch.distributed`` if it has an initialised group."""
    distributed = sys.modules.get("torch.distributed")
    has_group = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if has_group else None


def _launcher() -> tuple[str, str] | None:
    """Return the variables of rank and world size that are set."""
    known = (names for names in _LAUNCHERS if all(os.environ.get(name, "").isdigit() for name in filter(None, names)))
    return next(known, None)
