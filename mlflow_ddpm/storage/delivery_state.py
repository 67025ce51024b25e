"""What the store has acknowledged, on disk: all the state that an outage or a crash needs.

Rows carry a strictly rising ``logged_at_ms``, so one number says which of the journal's rows are still to be sent.
Losing the file loses no row: what the store holds is asked for before anything is sent a second time.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.storage.layout import DELIVERY_STATE_NAME

__all__ = ["DeliveryState"]


@dataclass(slots=True)
class DeliveryState:
    """The delivery state of one output directory. Two threads read it: lists and dicts are replaced, never changed."""

    tracking_uri: str = ""  # without credentials
    run_id: str | None = None
    parent_run_id: str | None = None  # the run that was asked for, if another tracker writes to it
    run_name: str | None = None
    experiment_name: str | None = None
    run_key: str = field(default_factory=lambda: uuid.uuid4().hex)  # a tag, by which a run made twice is found again
    tags: dict[str, str] = field(default_factory=dict)  # what the run is created with
    started_at_ms: int = 0  # when the run began, whenever the store got to know of it
    owned: bool = True  # the tracker created the run, so it ends it, too
    delivered_through_ms: int = 0  # rows logged up to this moment are acknowledged
    pictures: dict[str, int] = field(default_factory=dict)  # acknowledged: file name -> its timestamp
    resumed_at_epochs: list[int] = field(default_factory=list)  # first epoch of each life after the first
    status: str = "RUNNING"  # how the training ended
    ended_at_ms: int | None = None  # when
    final_tags: dict[str, str] = field(default_factory=dict)  # why
    ended: bool = False  # the store knows it, too

    @classmethod
    def load(cls, directory: Path) -> DeliveryState | None:
        """Return the directory's cursor, None if it has none.

        Raises:
            MirrorError: the file is not one of ours, or cannot be read.
        """
        path = directory / DELIVERY_STATE_NAME
        try:
            if not path.exists():
                return None
            told = json.loads(path.read_bytes())
            return cls(**{f.name: _checked(f.name, told[f.name]) for f in fields(cls) if f.name in told})
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise MirrorError(
                f"{path} is damaged ({error}); move it away, and MLflow is asked which rows it has"
            ) from error

    @classmethod
    def of_run(cls, run: Mapping[str, Any]) -> DeliveryState | None:
        """Return what a JSON's ``run`` says of the delivery, for a directory that lost its cursor (hidden files)."""
        if not run.get("run_id"):
            return None
        return cls(
            run_id=str(run["run_id"]),
            run_name=run.get("run_name"),
            experiment_name=run.get("experiment_name"),
            started_at_ms=run.get("start_time_ms") or 0,
            resumed_at_epochs=list(run.get("resumed_at_epochs") or []),
            status=run.get("status") or "RUNNING",
            ended_at_ms=run.get("end_time_ms"),
        )

    def save(self, directory: Path) -> None:
        """Write it, all or nothing.

        Raises:
            OSError: the disk is full or read-only.
        """
        replace_file(directory / DELIVERY_STATE_NAME, (json.dumps(asdict(self), indent=2) + "\n").encode())


_OPTIONAL: dict[str, type] = {
    "run_id": str,
    "parent_run_id": str,
    "run_name": str,
    "experiment_name": str,
    "ended_at_ms": int,
}


def _checked(name: str, value: Any) -> Any:
    """Return the value if it is of its field's kind."""
    kind = _OPTIONAL.get(name) or type(getattr(_EMPTY, name))
    if type(value) is kind or (name in _OPTIONAL and value is None):
        return value
    raise ValueError(f"{name} must be {kind.__name__}, got {value!r:.80}")


_EMPTY = DeliveryState(run_key="")
