"""What the ranks of one training agree on: that all of them have come, and where the training continues.

Both go by the key-value store of the process group, with a time-out of our own. A collective would wait for the group's
time-out of 10 to 30 minutes, and only where every rank makes the same call.
"""

import logging
from collections import Counter
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.errors import UsageError

_log = logging.getLogger("mlflow_ddpm")

_TIMEOUT = timedelta(seconds=45)  # the error is to come within a minute
_PREFIX = "mlflow_ddpm"
_rounds = count()
_trackers: Counter[str] = Counter()  # opened by this process, by name of their directory


def _group_store() -> Any:
    """Return the key-value store of ``torch.distributed``'s default group; None if there is no group."""
    group = ranks.group()
    return group and group.distributed_c10d._get_default_store()  # noqa: SLF001 - torch has no public name for it


def wait_for_all_ranks() -> None:
    """Return once every rank has called this as often as this one; raise UsageError, naming who did not in 45 s."""
    import torch.distributed as dist

    store, rank, this_round = _group_store(), dist.get_rank(), next(_rounds)
    keys = [f"{_PREFIX}/barrier/{this_round}/{other}" for other in range(dist.get_world_size())]
    store.set(keys[rank], "")
    try:
        store.wait(keys, _TIMEOUT)
    except dist.DistStoreError as error:
        late = [str(other) for other, key in enumerate(keys) if not store.check([key])]
        raise UsageError(
            f"rank {', '.join(late)} did not end this epoch within {_TIMEOUT.seconds} s of rank {rank}; with "
            "reduce_over_ranks=True every rank must call end_epoch (log_step), not rank 0 alone"
        ) from error
    if this_round >= 2:  # noqa: PLR2004 - whoever waits in this round knows that all have left the last but one
        store.delete_key(f"{_PREFIX}/barrier/{this_round - 2}/{rank}")


class NextEpoch:
    """The first epoch (or step) without a row, which rank 0 reads from disk and passes to the other ranks.

    Every rank must open its trackers in the same order, as it does if it runs the same script.
    """

    def __init__(self, directory: Path) -> None:
        _trackers[directory.name] += 1
        self._key = f"{_PREFIX}/next/{directory.name}/{_trackers[directory.name]}"
        self._known: int | None = None
        self._is_published = False

    def publish(self, value: int) -> None:
        """Let the other ranks know where the training began, once; rank 0 calls this."""
        store = None if self._is_published else _group_store()
        if store is not None:
            store.set(self._key, str(value))
            self._is_published = True

    def passed(self, epoch: int) -> None:
        """Note, on another rank, that an epoch ended."""
        if self._known is None:
            warn_if_nothing_is_recorded(is_group_due=False)
        self._known = epoch + 1

    def fetch(self) -> int:
        """Return, on another rank, the number that rank 0 has; raise UsageError if it cannot be asked in 45 seconds."""
        if self._known is not None:
            return self._known
        store = _group_store()
        if store is None:
            raise UsageError(
                "next_epoch is known on rank 0 alone, and this process has no torch.distributed group to ask it by; "
                "call torch.distributed.init_process_group before it, or broadcast rank 0's number"
            )
        import torch.distributed as dist

        try:
            store.wait([self._key], _TIMEOUT)
        except dist.DistStoreError as error:
            raise UsageError(
                f"next_epoch is known on rank 0 alone, which opened no tracker on this directory within "
                f"{_TIMEOUT.seconds} s; open the tracker on every rank"
            ) from error
        self._known = int(store.get(self._key))
        return self._known


def warn_if_nothing_is_recorded(*, is_group_due: bool) -> None:
    """Log why another rank records nothing, where a launcher numbers processes that may have nothing in common.

    ``srun`` and ``mpirun`` number independent tasks, too. ``RANK`` is set where a group is about to be made.
    """
    launcher = ranks.describe_launcher()
    if launcher and launcher.startswith("RANK=") != is_group_due:
        _log.warning(
            "nothing is recorded in this process: %s, and rank 0 records for all. If the processes are independent "
            "trainings, set RANK=0 WORLD_SIZE=1 in each and give each its own output_dir",
            launcher,
        )
