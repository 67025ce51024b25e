"""What the ranks of one training agree on: that all have come, where the training continues, and which one failed.

All go by the key-value store of the process group, with a time-out of our own. A collective would wait for the group's
time-out of 10 to 30 minutes, and only where every rank makes the same call.
"""

import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.errors import PeerLostError, UsageError
from mlflow_ddpm.core.formatting import first_line
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.mlflow_requests import in_time

_T = TypeVar("_T")
_log = logging.getLogger("mlflow_ddpm")

_TIMEOUT_SEC = 45.0  # the error is to come within a minute
_END_SEC = 2.0  # for a request that the training or the end of the run waits for: the store's host may hang
_POLL_SEC = 0.5
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
        reduces: losses are means, and samples sums, over all ranks, of which there are several.

    Raises:
        UsageError: it is to reduce over ranks whose number is not known.
    """

    def __init__(self, directory: Path, *, reduces: bool) -> None:
        if reduces and not ranks.is_world_size_known():
            raise UsageError(
                "reduce_over_ranks=True needs the number of ranks, which PMIX_RANK alone does not give; call "
                "torch.distributed.init_process_group before you open the tracker"
            )
        self._is_single = reduces and ranks.world_size() == 1
        self.reduces = reduces and not self._is_single
        _trackers[directory.name] += 1
        # The store of torchrun's agent outlives an attempt that failed, with what that has left. Any other is new, and
        # needs no number, which may differ by node: each counts the failures of its own ranks.
        is_agents_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if is_agents_store else "0"
        self._key = f"mlflow_ddpm/{attempt}/{directory.name}/{_trackers[directory.name]}"
        # Without the directory's name, which may differ by rank.
        self._barrier = f"mlflow_ddpm/{attempt}/barrier/{next(_reducing) if self.reduces else None}"
        self._rounds, self._pid = 0, os.getpid()
        self._broken: Callable[[], Exception] | None = None  # makes the error of ranks whose calls no longer match
        self._next_epoch: int | None = None
        self._is_published = self._has_waited = False
        self._silence: str | None = None  # why the store gives no answer any more

    def stop_reducing(self) -> None:
        """Measure this rank alone from now on: the others may be gone."""
        self.reduces = False

    def _store(self) -> Any:
        """Return the group's store; None without one, and in a forked process, which would share the rank's socket."""
        return _group_store() if os.getpid() == self._pid and not self._silence else None

    def _required_store(self, hint: str) -> Any:
        """Return the group's store; else raise PeerLostError if it has fallen silent, UsageError without one."""
        store = self._store()
        if store is None:
            raise PeerLostError(self._silence) if self._silence else UsageError(hint)
        return store

    def _ask(self, request: Callable[..., _T], *arguments: object) -> _T:
        """Return the answer to a request to the store, made on a thread of its own: signals are handled meanwhile.

        Raises:
            PeerLostError: no answer within 45 s: the process that hosts the store has ended, is stopped or unreachable.
        """
        has_ended = Event()

        def make() -> _T:
            try:
                return request(*arguments)
            finally:
                has_ended.set()

        try:
            return in_time(_TIMEOUT_SEC, make)
        except (OSError, RuntimeError) as error:  # TimeoutError is an OSError, the store's errors are RuntimeErrors
            self._silence = (
                f"the store of the process group does not answer ({first_line(error)}): its host, torchrun or rank 0, "
                "has ended or hangs"
            )
            raise PeerLostError(self._silence) from error
        finally:  # after a signal, too: a thread inside of the store when the interpreter ends would abort the process
            has_ended.wait(_END_SEC)

    def require_known_world(self) -> None:
        """Raise UsageError if a group of several ranks was made too late to reduce over them."""
        if self._is_single and ranks.world_size() > 1:
            raise UsageError(
                "reduce_over_ranks=True found one process when the tracker was opened, and there are "
                f"{ranks.world_size()} now; call torch.distributed.init_process_group before you open the tracker"
            )

    def together(self, collective: Callable[[], _T]) -> _T:
        """Return what a collective returns, which every rank must enter. After one that failed each later one raises.

        Raises:
            UsageError, PeerLostError: as :meth:`wait_for_all`; PeerLostError also for an error of the collective.
        """
        self.wait_for_all()
        try:
            return collective()
        except UsageError as error:
            self._broken = partial(UsageError, str(error))
            raise
        except Exception as error:
            self._broken = partial(PeerLostError, f"the ranks could not exchange their losses: {first_line(error)}")
            raise self._broken() from error

    def wait_for_all(self) -> None:
        """Return once every rank has called this as often as this one.

        What becomes of a call is the same on every rank. After one that failed each later one raises at once.

        Raises:
            UsageError: a rank did not call it within 45 s of this one, or this process is not one of the group.
            PeerLostError: a rank has failed, or the process that hosts the store.
        """
        if self._broken:
            raise self._broken()
        hint = "reduce_over_ranks=True needs a torch.distributed group of which this process is a rank"
        store = self._required_store(hint)
        self._rounds += 1
        outcome = self._meet(store, ranks.rank())
        if outcome != _COMPLETE:
            self._broken = partial(PeerLostError if outcome == self.lost_rank() else UsageError, outcome)
            raise self._broken()

    def _meet(self, store: Any, rank: int) -> str:
        """Return what became of a round, once it is known."""
        verdict, *arrivals = self._keys(self._rounds)
        self._ask(store.set, arrivals[rank], "")
        if self._ask(store.check, arrivals):
            self._ask(store.compare_set, verdict, "", _COMPLETE)
        if not self._wait(store, verdict):
            late = ", ".join(str(other) for other, key in enumerate(arrivals) if not self._ask(store.check, [key]))
            did_not_come = (
                f"rank {late} did not end this epoch within {_TIMEOUT_SEC:.0f} s of rank {rank}; with "
                "reduce_over_ranks=True every rank must call end_epoch (log_step), not rank 0 alone"
            )
            self._ask(store.compare_set, verdict, "", self.lost_rank() or did_not_come)
        old_verdict, *old_arrivals = self._keys(self._rounds - 2)  # whoever is in this round has left that one
        self._ask(store.delete_key, old_arrivals[rank])
        if rank == 0:
            self._ask(store.delete_key, old_verdict)
        return str(self._ask(store.get, verdict).decode())

    def _keys(self, this_round: int) -> list[str]:
        """Return the keys of a round: what became of it, and that each rank came."""
        return [f"{self._barrier}/{this_round}/{part}" for part in ("verdict", *range(ranks.world_size()))]

    def _wait(self, store: Any, key: str) -> bool:
        """Return whether a key is set within 45 s; False soon where a rank has failed."""
        began, next_look = time.monotonic(), 0.0  # for a rank that failed: rarely, as all ranks ask one host
        while not self._ask(store.check, [key]):  # the store's own wait prints a warning
            waited = time.monotonic() - began
            if waited > _TIMEOUT_SEC:
                return False
            if waited >= next_look:
                next_look = waited + _POLL_SEC
                if self.lost_rank():
                    return False
            time.sleep(min(0.001 + waited / 5, _POLL_SEC))
        return True

    def publish_failure(self, rank: int, outcome: RunOutcome) -> None:
        """Let rank 0 know how another rank's training failed: the launcher only sends it a signal."""
        with contextlib.suppress(Exception):  # the store may be gone with its process
            if outcome.status == "FAILED" and (store := self._store()):
                text = f"rank {rank} ended with {outcome.error_type}: {outcome.error_message}"
                in_time(_END_SEC, partial(store.compare_set, f"{self._key}/lost", "", text))

    def lost_rank(self) -> str | None:
        """Return which other rank's training failed, and how; None where none has, or the store does not answer."""
        key = f"{self._key}/lost"
        with contextlib.suppress(Exception):
            if store := self._store():
                return in_time(_END_SEC, lambda: str(store.get(key).decode()) if store.check([key]) else None)
        return None

    def publish_next_epoch(self, value: int) -> None:
        """Let the other ranks know the first epoch (or step) without a row, once; rank 0 reads it from disk."""
        if not self._is_published and (store := self._store()):
            with contextlib.suppress(Exception):  # the training may do without
                in_time(_END_SEC, partial(store.set, f"{self._key}/next", str(value)))
                self._is_published = True

    def passed(self, epoch: int) -> None:
        """Note, on another rank, that an epoch ended."""
        if self._next_epoch is None:
            warn_if_nothing_is_recorded(is_group_due=False)
        self._next_epoch = epoch + 1

    def next_epoch(self) -> int:
        """Return, on another rank, the number that rank 0 has.

        Raises:
            UsageError: rank 0 cannot be asked, or has no number within 45 s.
            PeerLostError: a rank has failed, or the process that hosts the store.
        """
        if self._next_epoch is not None:
            return self._next_epoch
        store = self._required_store(
            "next_epoch is known on rank 0 alone, and this process has no torch.distributed group to ask it by; "
            "call torch.distributed.init_process_group before it, or broadcast rank 0's number"
        )
        key = f"{self._key}/next"
        if not (self._ask(store.check, [key]) if self._has_waited else self._wait(store, key)):
            self._has_waited = True
            if lost := self.lost_rank():
                raise PeerLostError(lost)
            raise UsageError(
                f"next_epoch is known on rank 0 alone, which opened no tracker on this directory within "
                f"{_TIMEOUT_SEC:.0f} s; open the tracker on every rank"
            )
        self._next_epoch = int(self._ask(store.get, key))
        return self._next_epoch


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
