"""What the store has acknowledged, on disk: all the state that an outage or a crash needs.

Rows carry a strictly rising ``logged_at_ms``, so one number says which of the journal's rows are still to be sent.
Losing the file is harmless on SQL stores, which ignore a row sent again with the same timestamp.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from mlflow_ddpm.errors import MirrorError
from mlflow_ddpm.files import replace_file

__all__ = ["CURSOR_NAME", "Cursor"]

CURSOR_NAME = ".delivery.json"


@dataclass(slots=True)
class Cursor:
    """The delivery state of one output directory."""

    tracking_uri: str = ""  # without credentials
    run_id: str | None = None
    run_name: str | None = None
    experiment_name: str | None = None
    started_at_ms: int = 0  # when the run began, whenever the store got to know of it
    owned: bool = True  # the tracker created the run, so it ends it, too
    delivered_through_ms: int = 0  # rows logged up to this moment are acknowledged
    pictures: list[str] = field(default_factory=list)  # acknowledged, by file name
    status: str = "RUNNING"  # how the training ended
    ended: bool = False  # the store knows it, too

    @classmethod
    def load(cls, directory: Path) -> Cursor | None:
        """Return the directory's cursor, None if it has none.

        Raises:
            MirrorError: the file is not one of ours.
        """
        path = directory / CURSOR_NAME
        if not path.exists():
            return None
        try:
            told = json.loads(path.read_bytes())
            return cls(**{f.name: told[f.name] for f in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise MirrorError(
                f"{path} is damaged ({error}); delete it and every row is sent again, which SQL stores ignore"
            ) from error

    def save(self, directory: Path) -> None:
        """Write it, all or nothing.

        Raises:
            OSError: the disk is full or read-only.
        """
        replace_file(directory / CURSOR_NAME, (json.dumps(asdict(self), indent=2) + "\n").encode())
