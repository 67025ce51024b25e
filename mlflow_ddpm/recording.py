"""One run being written: rows and pictures to the mirror first, then by courier to MLflow. Rank 0 alone has one."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.cursor import Cursor
from mlflow_ddpm.delivery import Courier, Picture
from mlflow_ddpm.endings import Ending
from mlflow_ddpm.errors import MirrorError, StoreRefusedError, UsageError
from mlflow_ddpm.metrics import EpochMetrics
from mlflow_ddpm.mirror import Mirror
from mlflow_ddpm.run_choice import RunWish, find_wish, open_run
from mlflow_ddpm.snapshot import JSON_NAME
from mlflow_ddpm.store import ARTIFACT_FOLDER, SAMPLES, RunStore, redact
from mlflow_ddpm.strictjson import flatten, plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ARTIFACT_FOLDER", "SAMPLES", "Recording", "unix_ms"]

_log = logging.getLogger("mlflow_ddpm")
_OPEN_WAIT_SEC = 10.0
_PICTURE_NAME = re.compile(r"[A-Za-z0-9_\-]{1,100}")


class Recording:
    """Opens or resumes the run of an output directory. Raises as :class:`mlflow_ddpm.MetricsTracker` does."""

    def __init__(
        self,
        directory: Path,
        wish: RunWish,
        *,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        environment: Mapping[str, Any],
        resume: bool,
        now_ms: Callable[[], int],
    ) -> None:
        self._now_ms = now_ms
        self._config: dict[str, Any] = plain(config)
        self._tags, self._environment = tags, environment
        self.mirror = Mirror(directory)
        try:
            self._cursor, self._wish = self._resume_or_begin(wish, resume=resume)
        except (MirrorError, UsageError):
            self.mirror.close()
            raise
        self.mirror.describe(
            run={"run_id": self._wish.run_id, "run_name": self._wish.run_name, "status": "RUNNING"}
            | {"start_time_ms": self._cursor.started_at_ms, "end_time_ms": None},
            config=self._config,
            environment=environment,
        )
        self.courier = Courier(
            directory, self._cursor, open_store=self._open_store, introduce=self._introduce, rows=self.mirror.rows
        )
        self.courier.start()
        self.courier.wait_open(_OPEN_WAIT_SEC)
        if wish.run_id and isinstance(self.courier.fault, StoreRefusedError):
            self.mirror.close()
            raise self.courier.fault

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id; None while no store has been reached."""
        return self._cursor.run_id

    @property
    def tracking_uri(self) -> str:
        """Where the run is, credentials included."""
        return self._wish.tracking_uri

    def write(self, row: EpochMetrics) -> None:
        """Make the row durable, then have it delivered."""
        self.mirror.append(row)
        self.courier.post(row)

    def write_picture(self, name: str, image: NDArray[np.uint8], epoch: int) -> Path:
        """Keep a picture under ``samples/`` as PNG, then have it delivered.

        Raises:
            UsageError: the name is no plain file name, or the image is not (H, W), (H, W, 3) or (H, W, 4) of uint8.
        """
        if not _PICTURE_NAME.fullmatch(name):
            raise UsageError(f"a picture's name must be letters, digits, _ and - alone, got {name!r}")
        path = self.mirror.directory / SAMPLES / f"{name}_epoch_{epoch:06d}.png"
        try:
            path.parent.mkdir(exist_ok=True)
            _png(image).save(path)
        except OSError as error:
            _log.warning("the picture %s was not written (%s); training goes on", path, error.strerror or error)
            return path
        self.courier.post(Picture(name, path, epoch, self._now_ms()))
        return path

    def next_timestamp(self) -> int:
        """Return the time for a new row: now, and in any case later than the last row's."""
        last = self.mirror.rows[-1].logged_at_ms if self.mirror.rows else 0
        return max(self._now_ms(), last + 1)

    def seconds_before(self, epoch: int) -> float:
        """Return the run's seconds up to an epoch, those before a resume included."""
        earlier = next((row for row in reversed(self.mirror.rows) if row.epoch < epoch), None)
        return (earlier.cumulative_time_sec if earlier else None) or 0.0

    def close(self, ending: Ending, timeout: float) -> bool:
        """Deliver, end the run, write the mirror a last time; return whether MLflow has everything."""
        told = {"error.type": ending.error_type, "error.message": ending.error_message}
        tags = {key: redact(value) for key, value in told.items() if value}
        done = self.courier.close(ending.status, tags, timeout)
        self.mirror.close(run_id=self.run_id, status=ending.status, end_time_ms=self._now_ms())
        if not done:
            _log.warning(
                "%d rows and pictures have not reached MLflow; they are safe in %s: `mlflow-ddpm sync %s` sends them",
                self.courier.waiting,
                self.mirror.directory,
                self.mirror.directory,
            )
        return done

    def _resume_or_begin(self, wish: RunWish, *, resume: bool) -> tuple[Cursor, RunWish]:
        directory = self.mirror.directory
        before = Cursor.load(directory)
        if before is None:
            wish = find_wish(wish)
            return Cursor(
                tracking_uri=redact(wish.tracking_uri),
                run_id=wish.run_id,
                run_name=wish.run_name,
                experiment_name=wish.experiment_name,
                started_at_ms=self._now_ms(),
                owned=wish.run_id is None,
            ), wish
        epochs = f"{len(self.mirror.rows)} epochs"
        if before.status == "FINISHED" and not resume:
            raise UsageError(
                f"{directory} holds the finished run {before.run_id} ({epochs}); choose another output_dir, "
                "or pass resume=True to add epochs to that run"
            )
        wanted = find_wish(wish)
        if before.run_id and wanted.run_id not in (None, before.run_id):
            raise UsageError(
                f"{directory} holds run {before.run_id} ({epochs}), but run {wanted.run_id} is asked for; "
                "choose another output_dir, or the run that is there"
            )
        before.status, before.ended = "RUNNING", False
        uri = wish.tracking_uri or (before.tracking_uri if "***" not in before.tracking_uri else wanted.tracking_uri)
        return before, RunWish(uri, before.run_id or wanted.run_id, before.run_name, before.experiment_name)

    def _open_store(self) -> RunStore:
        tags = {"mlflow_ddpm.output_dir": self.mirror.directory.name, **self._tags}
        store, created = open_run(self._wish, started_at_ms=self._cursor.started_at_ms, tags=tags)
        self._wish = self._wish._replace(run_id=store.run_id)  # so that a second try does not make a second run
        if not created and self._cursor.owned:
            store.resume()
        return store

    def _introduce(self, store: RunStore) -> None:
        """Log what makes a run page readable from the first epoch on."""
        environment = {f"env.{name}": str(value) for name, value in self._environment.items()}
        store.set_tags({**environment, **self._tags})
        store.log_params(flatten(self._config))
        told = store.info()
        self.mirror.describe(
            run={**told, "status": "RUNNING", "end_time_ms": None}, config=self._config, environment=self._environment
        )
        # The config with its types, and the environment, for whoever reads the run later: params are strings. The
        # post-run step replaces the file by the whole history.
        self.mirror.flush()
        if (self.mirror.directory / JSON_NAME).exists():
            store.log_file(self.mirror.directory / JSON_NAME, ARTIFACT_FOLDER)


def _png(image: NDArray[np.uint8]) -> Any:
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):  # noqa: PLR2004
        raise UsageError(
            f"a picture must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), got {pixels.dtype} {pixels.shape}"
        )
    return Image.fromarray(pixels)


def unix_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
