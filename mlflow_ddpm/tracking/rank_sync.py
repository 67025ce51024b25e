"""What the ranks of one training agree on: that all have come, where the training continues, and which one failed.

All go by the key-value store of the process group, with a time-out of our own. A collective would wait for the group's
time-out of 10 to 30 minutes, and only where every rank makes the same call.
"""

import contextlib
import logging
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.errors import PeerLostError, UsageError
from mlflow_ddpm.core.run_summary import RunOutcome

_log = logging.getLogger("mlflow_ddpm")

_TIMEOUT_SEC = 45.0  # the error is to come within a minute
_PREFIX = "mlflow_ddpm"
_COMPLETE = "complete"
_trackers: Counter[str] = Counter()  # opened by this process, by name of their directory
_reducing = count()  # likewise, those that reduce over ranks


def _group_store() -> Any:
    """Return the key-value store of ``torch.distributed``'s default group; None if there is no group."""
    group = ranks.group()
    return group and group.distributed_c10d._get_default_store()  # noqa: SLF001 - torch has no public name for it


class RankSync:
    """One tracker's tie to those of the other ranks.

    Every rank must open its trackers in the same order, as it does if it runs the same script.

    Attributes:
        reduces: losses are means, and samples sums, over all ranks.
    """

    def __init__(self, directory: Path, *, reduces: bool) -> None:
        self.reduces = reduces
        _trackers[directory.name] += 1
        self._key = f"{_PREFIX}/{directory.name}/{_trackers[directory.name]}"
        self._barrier = f"{_PREFIX}/barrier/{next(_reducing) if reduces else None}"  # directories may differ by rank
        self._rounds = 0
        self._broken: Exception | None = None  # why the ranks' calls no longer match
        self._next_epoch: int | None = None
        self._is_published = self._has_waited = False

    def wait_for_all(self) -> None:
        """Return once every rank has called this as often as this one.

        What becomes of a call is the same on every rank. After one that failed each later one raises at once.

        Raises:
            UsageError: a rank did not call it within 45 s of this one.
            PeerLostError: a rank has failed.
        """
        import torch.distributed as dist

        if self._broken:
            raise self._broken
        store, rank = _group_store(), dist.get_rank()
        self._rounds += 1
        verdict, *arrivals = self._keys(self._rounds)
        store.set(arrivals[rank], "")
        if store.check(arrivals):
            store.compare_set(verdict, "", _COMPLETE)
        if not self._wait(store, verdict):
            late = ", ".join(str(other) for other, key in enumerate(arrivals) if not store.check([key]))
            store.compare_set(verdict, "", self.lost_rank() or _did_not_come(late, rank))
        if (outcome := store.get(verdict).decode()) != _COMPLETE:
            self._broken = (PeerLostError if outcome == self.lost_rank() else UsageError)(outcome)
            raise self._broken
        if rank == 0 and self._rounds > 2:  # noqa: PLR2004 - whoever is in this round has left the last but one
            for key in self._keys(self._rounds - 2):
                store.delete_key(key)

    def _keys(self, this_round: int) -> list[str]:
        """Return the keys of a round: what became of it, and that each rank came."""
        return [f"{self._barrier}/{this_round}/{part}" for part in ("verdict", *range(ranks.world_size()))]

    def _wait(self, store: Any, key: str) -> bool:
        """Return whether a key is set within 45 s; False at once where a rank has failed."""
        began = time.monotonic()
        while not store.check([key]):  # the store's own wait would hold signals up, and prints a warning
            waited = time.monotonic() - began
            if waited > _TIMEOUT_SEC or self.lost_rank():
                return False
            time.sleep(min(0.001 + waited / 20, 0.5))
        return True

    def publish_failure(self, rank: int, outcome: RunOutcome) -> None:
        """Let rank 0 know how another rank's training failed: the launcher only sends it a signal."""
        with contextlib.suppress(Exception):  # the store may be gone with its process
            if outcome.status == "FAILED" and (store := _group_store()):
                text = f"rank {rank} ended with {outcome.error_type}: {outcome.error_message}"
                store.compare_set(f"{self._key}/lost", "", text)

    def lost_rank(self) -> str | None:
        """Return which other rank's training failed, and how; None where none has."""
        with contextlib.suppress(Exception):
            if (store := _group_store()) and store.check([f"{self._key}/lost"]):
                return str(store.get(f"{self._key}/lost").decode())
        return None

    def publish_next_epoch(self, value: int) -> None:
        """Let the other ranks know the first epoch (or step) without a row, once; rank 0 reads it from disk."""
        store = None if self._is_published else _group_store()
        if store is not None:
            store.set(f"{self._key}/next", str(value))
            self._is_published = True

    def passed(self, epoch: int) -> None:
        """Note, on another rank, that an epoch ended."""
        if self._next_epoch is None:
            warn_if_nothing_is_recorded(is_group_due=False)
        self._next_epoch = epoch + 1

    def next_epoch(self) -> int:
        """Return, on another rank, the number that rank 0 has; raise UsageError if it cannot be asked in 45 seconds."""
        if self._next_epoch is not None:
            return self._next_epoch
        store, key = _group_store(), f"{self._key}/next"
        if store is None:
            raise UsageError(
                "next_epoch is known on rank 0 alone, and this process has no torch.distributed group to ask it by; "
                "call torch.distributed.init_process_group before it, or broadcast rank 0's number"
            )
        if not (store.check([key]) if self._has_waited else self._wait(store, key)):
            self._has_waited = True
            raise UsageError(
                f"next_epoch is known on rank 0 alone, which opened no tracker on this directory within "
                f"{_TIMEOUT_SEC:.0f} s; open the tracker on every rank"
            )
        self._next_epoch = int(store.get(key))
        return self._next_epoch


def _did_not_come(late: str, rank: int) -> str:
    return (
        f"rank {late} did not end this epoch within {_TIMEOUT_SEC:.0f} s of rank {rank}; with reduce_over_ranks=True "
        "every rank must call end_epoch (log_step), not rank 0 alone"
    )


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
