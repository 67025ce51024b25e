"""What the store does not take is set aside, and all else is sent.

It is logged once, kept in the delivery state, listed by ``mlflow-ddpm status``, and sent when the run opens again; a
file that no sync finds is only sent if it is logged again.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from mlflow_ddpm.core.errors import (
    ItemRefusedError,
    RunMissingError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from mlflow_ddpm.core.formatting import display_path, printable
from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.storage.delivery_state import StateFile
from mlflow_ddpm.storage.fault_rules import PASSING_ERRNO
from mlflow_ddpm.storage.images import LoggedImage
from mlflow_ddpm.tracking.outage import kind_of_cause
from mlflow_ddpm.tracking.upload_items import Artifact

_log = logging.getLogger("mlflow_ddpm")
_T = TypeVar("_T")
_FAILURES_MAX = 12  # one after the other, before the store is at fault


class SetAside:
    """The items of one run that its store does not take. ``takes_tags`` returns whether it takes a plain tag now."""

    def __init__(self, state_file: StateFile, takes_tags: Callable[[], bool]) -> None:
        self._file, self._takes_tags = state_file, takes_tags
        self.is_suspect = self._has_suspects = False  # one item may be why nothing is sent
        self.logged_causes: set[str] = set()

    def send(self, items: Sequence[_T], send: Callable[[Sequence[_T]], object], name_of: Callable[[_T], str]) -> None:
        """Send all at once, or what the store takes of it, and set the rest aside; raise StoreError where it is away.

        ``send`` sends some of the items; ``name_of`` returns what the delivery state calls one.
        """
        is_suspect = self.is_suspect or self._has_suspects
        # The store takes either all points or none, but for their values.
        are_alike = isinstance(next(iter(items), None), Point)
        sending = _Sending(send, self._takes_tags, is_suspect=is_suspect, are_alike=are_alike)
        refused = sending.refused(items)
        for item, error in refused:
            self._has_suspects |= isinstance(error, StoreUnavailableError)  # the next row may have one, too
            self.add(name_of(item), error)
        if self._file.state.set_aside:
            self._file.settle({name_of(item) for item in items} - {name_of(item) for item, _ in refused})

    def add_file(self, name: str, error: Exception) -> None:
        """Set a file aside unless the fault may pass. Whatever else reading or encoding it raised will come again."""
        if isinstance(error, StoreError) and not isinstance(error, ItemRefusedError):
            raise error
        if isinstance(error, OSError) and error.errno in PASSING_ERRNO:
            raise StoreUnavailableError(f"{name} cannot be read now: {error.strerror}") from error
        self.add(name, error)

    def add_lost(self, waiting: Iterable[LoggedImage | Artifact]) -> None:
        """Set aside those of the files that wait which no sync of the directory will find, and log them.

        A picture that the disk refused is put there, if the disk takes it now.
        """
        directory = self._file.directory
        lost: dict[str, str] = {}
        for item in waiting:
            if isinstance(item, LoggedImage) and not item.put_on_disk():
                lost[item.path.relative_to(directory).as_posix()] = "the disk refused it"
            elif isinstance(item, Artifact) and not item.path.is_relative_to(directory):
                lost[item.path.as_posix()] = f"it lies outside {display_path(directory)}"
        new = lost.keys() - self._file.state.set_aside.keys()
        if new:
            self._file.put(
                artifacts=lambda names: [name for name in names if name not in lost],
                set_aside=lambda earlier: {**earlier, **lost},
            )
            name = min(new)
            with contextlib.suppress(Exception):  # a handler of the user's may raise
                _log.warning(
                    "a later sync does not find %s, which MLflow does not have yet: %s; log it again",
                    f"{printable(name)}{f' and {len(new) - 1} more' if len(new) > 1 else ''}",
                    lost[name],
                )

    def add(self, name: str, error: Exception) -> None:
        """Set an item aside, and log the first of each cause: of 2,000 pictures, one warning."""
        cause = " ".join(str(error).split()) or type(error).__name__
        self._file.put(
            artifacts=lambda waiting: [other for other in waiting if other != name],
            set_aside=lambda earlier: {**earlier, name: cause},
        )
        kind = kind_of_cause(error, name)
        level = logging.DEBUG if kind in self.logged_causes else logging.WARNING
        self.logged_causes.add(kind)
        where = display_path(self._file.directory)
        with contextlib.suppress(Exception):  # a handler of the user's may raise
            _log.log(
                level,
                "%s is not sent to MLflow: %s. It is set aside, all else is sent; `mlflow-ddpm status %s` lists what "
                "is set aside, and `mlflow-ddpm sync %s` tries it again",
                *(printable(name), printable(cause.rstrip(".")), where, where),
            )


class _Sending(Generic[_T]):
    """Sends items: all at once, and what is not taken together in halves, until what is not taken stands alone.

    A fault that may pass, or a refusal, is an item's only if the store takes other things meanwhile. ``is_suspect``:
    the same failed before, so that it may fail for ever. ``are_alike``: where none is taken, none of them is at fault.
    """

    def __init__(
        self,
        send: Callable[[Sequence[_T]], object],
        is_store_there: Callable[[], bool],
        *,
        is_suspect: bool,
        are_alike: bool,
    ) -> None:
        self._send, self._is_store_there = send, is_store_there
        self._is_suspect, self._are_alike = is_suspect, are_alike
        self._failures: list[StoreError] = []  # one after the other, that may be the store's
        self._has_taken = False

    def refused(self, items: Sequence[_T]) -> list[tuple[_T, StoreError]]:
        """Send items; return those that are not taken, and raise the StoreError where the store is at fault."""
        refused = []
        for item, first in self._in_halves(items) if items else ():
            error = first if isinstance(first, ItemRefusedError) else self._try([item])  # after all others
            if error:
                refused.append((item, error))
        doubtful = [error for _, error in refused if not isinstance(error, ItemRefusedError)]
        if doubtful and self._are_alike and len(items) > 1 and not self._has_taken:
            raise doubtful[-1]
        return refused

    def _in_halves(self, items: Sequence[_T]) -> list[tuple[_T, StoreError]]:
        error = self._try(items)
        if error is None:
            return []
        if len(items) == 1 or len(self._failures) == _FAILURES_MAX:
            return [(item, error) for item in items]
        half = len(items) // 2
        return [*self._in_halves(items[:half]), *self._in_halves(items[half:])]

    def _try(self, items: Sequence[_T]) -> StoreError | None:
        """Send items; return the fault if it may be theirs, raise it if it is the store's."""
        if len(self._failures) == _FAILURES_MAX:  # all of them, it seems
            return self._failures[-1]
        try:
            self._send(items)
        except ItemRefusedError as error:
            return error
        except StoreError as error:
            self._failures.append(error)
            if isinstance(error, RunMissingError) or not (self._is_suspect or isinstance(error, StoreRefusedError)):
                raise
            is_last = len(self._failures) == _FAILURES_MAX
            if is_last and self._are_alike:
                raise
            if (is_last or len(self._failures) == 1) and not self._is_store_there():
                raise
            return error
        self._failures, self._has_taken = [], True
        return None
