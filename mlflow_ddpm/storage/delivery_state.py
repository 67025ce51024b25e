"""What the store has acknowledged, on disk: all the state that an outage or a crash needs.

Rows carry a strictly rising ``logged_at_ms``, so one number separates the rows that are sent
from those that are not.
Losing the file loses no row: what the store holds is asked for before anything is sent a second time.
"""

import json
import logging
import math
import threading
import time
import uuid
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_origin

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.foreign_files import read_bounded
from mlflow_ddpm.storage.layout import DELIVERY_STATE_NAME

_log = logging.getLogger("mlflow_ddpm")
_SAVE_SEC = 1.0  # between two saves of a thread that changes much at once


@dataclass(slots=True)
class DeliveryState:
    """The delivery state of one output directory. Two threads read it: lists and dicts are replaced, never changed."""

    tracking_uri: str = ""  # without credentials
    run_id: str | None = None
    parent_run_id: str | None = None  # the run that was asked for, if another tracker writes to it
    run_name: str | None = None
    experiment_name: str | None = None
    run_key: str = field(default_factory=lambda: uuid.uuid4().hex)  # tag that finds a run whose creation was unheard
    tags: dict[str, str] = field(default_factory=dict)  # what the run is created with
    started_at_ms: int = 0  # when the run began, whenever the store got to know of it
    owned: bool = True  # the tracker created the run, so it ends it, too
    delivered_through_ms: int = 0  # rows logged up to this moment are acknowledged
    pictures: dict[str, int] = field(default_factory=dict)  # acknowledged: file name -> its timestamp
    artifacts: list[str] = field(default_factory=list)  # files that wait, relative to the directory
    set_aside: dict[str, str] = field(default_factory=dict)  # what the store does not take, or no sync finds -> why
    resumed_at_epochs: list[int] = field(default_factory=list)  # first epoch of each life after the first
    every_n_steps: int | None = None  # rows are windows of this many steps; None: rows are epochs
    status: str = "RUNNING"  # how the training ended
    ended_at_ms: int | None = None  # when
    final_tags: dict[str, str] = field(default_factory=dict)  # why
    ended: bool = False  # MLflow has the end of the run

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """Return the directory's state, None if it has none; raise MirrorError if it is damaged or cannot be read."""
        path = directory / DELIVERY_STATE_NAME
        try:
            if not path.exists():
                return None
            saved = dict(**json.loads(read_bounded(path)))
            return cls(**{f.name: _checked(f.name, f.type, saved[f.name]) for f in fields(cls) if f.name in saved})
        except OSError as error:  # no right, no descriptor left: the file itself may be whole
            raise MirrorError(f"{path} cannot be read ({error.strerror or error}); make it readable") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MirrorError(
                f"{path} is damaged ({error}); move it away, and MLflow is asked which rows it has"
            ) from error

    @classmethod
    def of_run(cls, run: Mapping[str, Any]) -> Self | None:
        """Return what a JSON's ``run`` holds of the state, for a directory that lost its hidden files in copying."""
        if not run.get("run_id"):
            return None
        return cls(
            run_key="",  # it is lost: the run is taken whatever its tag
            run_id=str(run["run_id"]),
            run_name=run.get("run_name"),
            experiment_name=run.get("experiment_name"),
            started_at_ms=run.get("start_time_ms") or 0,
            resumed_at_epochs=list(run.get("resumed_at_epochs") or []),
            every_n_steps=run.get("every_n_steps"),
            owned=run.get("owned") is not False,
            status=run.get("status") or "RUNNING",
            ended_at_ms=run.get("end_time_ms"),
        )

    @property
    def is_from_json(self) -> bool:
        """Whether what the store has acknowledged is not known."""
        return self.run_id is not None and not self.run_key

    def as_run(self) -> dict[str, Any]:
        """Return what the JSON's ``run`` holds of the state; :meth:`of_run` reads it."""
        steps = {"every_n_steps": self.every_n_steps} if self.every_n_steps else {}
        times = {"status": self.status, "start_time_ms": self.started_at_ms, "end_time_ms": self.ended_at_ms}
        return {**times, "resumed_at_epochs": self.resumed_at_epochs, "owned": self.owned, **steps}

    def begin_anew(self) -> None:
        """Forget the run in MLflow, so that the next upload creates one and sends everything."""
        self.run_id, self.owned, self.ended = None, True, False
        self.delivered_through_ms, self.pictures, self.set_aside = 0, {}, {}

    def set_outcome(self, outcome: RunOutcome | None) -> None:
        """Note how the training ended; None: it is running."""
        self.ended = False
        self.status = outcome.status if outcome else "RUNNING"
        self.ended_at_ms = outcome.at_ms if outcome else None
        why = {"error.type": outcome.error_type, "error.message": outcome.error_message} if outcome else {}
        self.final_tags = {name: text for name, text in why.items() if text}

    def save(self, directory: Path) -> None:
        """Write it, all or nothing; raises OSError if the disk is full or read-only."""
        replace_file(directory / DELIVERY_STATE_NAME, (json.dumps(asdict(self), indent=2) + "\n").encode())


class StateFile:
    """A state and its file, which several threads change."""

    def __init__(self, directory: Path, state: DeliveryState) -> None:
        self.directory, self.state = directory, state
        self._lock = threading.RLock()
        self._is_closed = self._is_owed = False
        self._saved_at = -math.inf
        self._gathering: set[int] = set()  # threads that change much at once

    def put(self, **fields: Any) -> None:
        """Set fields, each to a value or to a function of its earlier one, and put them on disk, unless closed.

        No context manager: an interrupt of the training thread between its lines would leave the lock held.
        """
        with self._lock:
            for name, new in fields.items():
                setattr(self.state, name, new(getattr(self.state, name)) if callable(new) else new)
            self._is_owed = True
            is_soon = time.monotonic() < self._saved_at + _SAVE_SEC
            if not (is_soon and threading.get_ident() in self._gathering):
                self._save()

    def settle(self, names: Container[str], **fields: Any) -> None:
        """Note that the store has these items: they neither wait nor are they set aside. Set ``fields`` with it."""
        self.put(
            artifacts=lambda waiting: [name for name in waiting if name not in names],
            set_aside=lambda earlier: {name: why for name, why in earlier.items() if name not in names},
            **fields,
        )

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Put this thread's changes on disk once a second, and at the end: each save waits for the disk.

        What a kill then loses is asked of the store by the next process, before it sends anything twice.
        """
        self._gathering.add(threading.get_ident())
        try:
            yield
        finally:
            self._gathering.discard(threading.get_ident())
            with self._lock:
                self._save()

    def close(self) -> None:
        """Leave the file to the directory's next writer."""
        with self._lock:
            self._save()
            self._is_closed = True

    def _save(self) -> None:
        if self._is_closed or not self._is_owed:
            return
        try:
            self.state.save(self.directory)
            self._is_owed, self._saved_at = False, time.monotonic()
        except OSError as error:  # the mirror warns of the same disk
            _log.debug("the delivery state was not saved: %s", error)


def _checked(name: str, kind: Any, value: Any) -> Any:
    """Return the value if it is of its field's kind: ``int``, ``str | None``, ``list[str]``, ..."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (get_origin(kind) or kind,)
    if type(value) in kinds:
        return value
    raise ValueError(f"{name} must be {kinds[0].__name__}, got {value!r:.80}")
