"""One run being written: rows and pictures to the mirror first, then by courier to MLflow. Rank 0 alone has one."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.cursor import Cursor
from mlflow_ddpm.delivery import Courier, Parcel, Picture, Tags
from mlflow_ddpm.endings import Ending
from mlflow_ddpm.errors import MirrorError, RunMissingError, UsageError
from mlflow_ddpm.files import replace_file
from mlflow_ddpm.metrics import EpochMetrics
from mlflow_ddpm.mirror import Mirror
from mlflow_ddpm.run_choice import RunWish, absolute_uri, context_tags, find_wish, open_run
from mlflow_ddpm.snapshot import JSON_NAME
from mlflow_ddpm.store import ARTIFACT_FOLDER, RESUMED_TAG, SAMPLES, RunStore, redact
from mlflow_ddpm.strictjson import flatten, plain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["ARTIFACT_FOLDER", "SAMPLES", "Recording", "unix_ms"]

_log = logging.getLogger("mlflow_ddpm")
_OPEN_WAIT_SEC = 9.0  # of the ten that a construction may take at most
_PICTURE_NAME = re.compile(r"[A-Za-z0-9_\-]{1,100}")
_PICTURE_FILE = re.compile(r"(?P<name>[A-Za-z0-9_\-]{1,100})_epoch_(?P<epoch>[0-9]{6,19})\.png")


class Recording:
    """Opens or resumes the run of an output directory. Raises as :class:`mlflow_ddpm.MetricsTracker` does.

    With ``ending`` the training is over, and only the delivery of what waits is left.
    """

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
        ending: Ending | None = None,
    ) -> None:
        began, self._pid = time.monotonic(), os.getpid()
        self._now_ms, self._is_late = now_ms, ending is not None
        self._config: dict[str, Any] = plain(config)
        self._tags, self._environment = tags, environment
        self.mirror = Mirror(directory)
        try:
            self._cursor, self._wish = self._resume_or_begin(wish, resume=resume)
            self._settle(self._cursor, ending)
        except (MirrorError, UsageError):
            self.mirror.abandon()
            raise
        self._resuming, self._posted_ms = bool(self.mirror.rows), self.next_timestamp() - 1
        wanted = {"run_id": self._wish.run_id, "run_name": self._wish.run_name}
        self._describe({key: value for key, value in wanted.items() if value})
        self.courier = Courier(
            directory,
            self._cursor,
            open_store=self._open_store,
            introduce=self._introduce,
            parcels=self._undelivered(),
        )
        self.courier.save_cursor()
        self.mirror.flush()  # from here on a kill leaves enough behind for a resume or a sync
        self.courier.start()
        self.courier.wait_open(max(1.0, began + _OPEN_WAIT_SEC - time.monotonic()))
        if wish.run_id and isinstance(self.courier.fault, RunMissingError):
            self.courier.stop()
            self.mirror.abandon()
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
        if self._resuming:
            self._mark_resume(row.epoch)
        self._post_row(row)

    def write_picture(self, name: str, image: NDArray[np.uint8], epoch: int) -> Path:
        """Keep a picture under ``samples/`` as PNG, then have it delivered.

        Raises:
            UsageError: the name is no plain file name, or the image is not (H, W), (H, W, 3) or (H, W, 4) of uint8.
        """
        if not _PICTURE_NAME.fullmatch(name):
            raise UsageError(f"a picture's name must be letters, digits, _ and - alone, got {name!r}")
        path = self.mirror.directory / SAMPLES / f"{name}_epoch_{epoch:06d}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, _png(image))
        except OSError as error:
            self.mirror.warn(error)
            return path
        self._cursor.pictures = {k: v for k, v in self._cursor.pictures.items() if k != path.name}  # drawn anew
        self.courier.post(_picture(path))
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
        cursor = self._cursor
        if os.getpid() != self._pid:  # a forked child, which has neither courier nor say
            return False
        self._settle(cursor, ending)
        for row in self.mirror.rows[-1:]:  # a signal may have come between writing it and posting it
            if row.logged_at_ms > self._posted_ms:
                self._post_row(row)
        self._describe({})
        self.mirror.flush()  # whoever sent SIGTERM may send SIGKILL while the store is waited for
        try:
            done = self.courier.close(timeout)
        finally:
            self.mirror.close(run_id=self.run_id, status=cursor.status, end_time_ms=cursor.ended_at_ms)
        if not done:
            waiting, where = self.courier.waiting, self.mirror.directory
            what = f"{waiting} rows and pictures have" if waiting else "the end of the run has"
            _log.warning("%s not reached MLflow; all is safe in %s: `mlflow-ddpm sync %s` sends it", what, where, where)
        return done

    def _resume_or_begin(self, wish: RunWish, *, resume: bool) -> tuple[Cursor, RunWish]:
        directory = self.mirror.directory
        before = Cursor.load(directory) or _cursor_of(self.mirror.previous_run)
        if before is None:
            return self._begin(find_wish(wish))
        epochs = f"{len(self.mirror.rows)} epochs"
        if before.status == "FINISHED" and not resume:
            raise UsageError(
                f"{directory} holds the finished run {before.run_id} ({epochs}); choose another output_dir, "
                "or pass resume=True (mlflow-ddpm train --resume) to add epochs to that run"
            )
        wanted = find_wish(wish)
        if before.run_id and wanted.run_id not in (None, before.run_id):
            raise UsageError(
                f"{directory} holds run {before.run_id} ({epochs}), but run {wanted.run_id} is asked for; "
                "choose another output_dir, or the run that is there"
            )
        known = before.tracking_uri if "***" not in before.tracking_uri else ""
        uri = absolute_uri(wish.tracking_uri) if wish.tracking_uri else known or wanted.tracking_uri
        before.tracking_uri = redact(uri)
        found = RunWish(uri, before.run_id or wanted.run_id, before.run_name, before.experiment_name, before.run_key)
        return before, found

    def _begin(self, wish: RunWish) -> tuple[Cursor, RunWish]:
        cursor = Cursor(
            tracking_uri=redact(wish.tracking_uri),
            run_id=wish.run_id,
            run_name=wish.run_name,
            experiment_name=wish.experiment_name,
            started_at_ms=self._now_ms(),
            owned=wish.run_id is None,
        )
        return cursor, wish._replace(run_key=cursor.run_key)

    def _settle(self, cursor: Cursor, ending: Ending | None) -> None:
        """Note how the training ended; None: it goes on."""
        if ending is None:
            cursor.status, cursor.ended_at_ms, cursor.final_tags = "RUNNING", None, {}
        else:
            told = {"error.type": ending.error_type, "error.message": ending.error_message}
            cursor.final_tags = {key: redact(value) for key, value in told.items() if value}
            cursor.status, cursor.ended_at_ms = ending.status, ending.at_ms or self._now_ms()
        cursor.ended = False

    def _undelivered(self) -> list[Parcel]:
        """Return what an earlier life of this run left: rows, then pictures."""
        rows = [row for row in self.mirror.rows if row.logged_at_ms > self._cursor.delivered_through_ms]
        try:
            names = sorted(path.name for path in (self.mirror.directory / SAMPLES).glob("*.png"))
            new = [name for name in names if _PICTURE_FILE.fullmatch(name) and name not in self._cursor.pictures]
            return [*rows, *(_picture(self.mirror.directory / SAMPLES / name) for name in new)]
        except OSError:  # the folder cannot be read: no reason to keep the rows back
            return [*rows]

    def _post_row(self, row: EpochMetrics) -> None:
        self._posted_ms = row.logged_at_ms
        self.courier.post(row)

    def _mark_resume(self, epoch: int) -> None:
        self._resuming = False
        self._cursor.resumed_at_epochs = [e for e in self._cursor.resumed_at_epochs if e < epoch] + [epoch]
        self.courier.save_cursor()
        self._describe({})
        self.courier.post(Tags(self._resume_tags()))

    def _resume_tags(self) -> dict[str, str]:
        epochs = self._cursor.resumed_at_epochs
        return {RESUMED_TAG: ", ".join(map(str, epochs))} if epochs else {}

    def _describe(self, told: Mapping[str, Any]) -> None:
        """Have the JSON say what is known of the run, which a store may tell better than we do."""
        cursor = self._cursor
        ours = {"status": cursor.status, "start_time_ms": cursor.started_at_ms, "end_time_ms": cursor.ended_at_ms}
        ours["resumed_at_epochs"] = cursor.resumed_at_epochs
        self.mirror.describe(run={**ours, **told}, config=self._config, environment=self._environment)

    def _open_store(self) -> RunStore:
        if not self._cursor.tags:
            self._cursor.tags = context_tags({"mlflow_ddpm.output_dir": self.mirror.directory.name, **self._tags})
            self.courier.save_cursor()
        store, created = open_run(self._wish, started_at_ms=self._cursor.started_at_ms, tags=self._cursor.tags)
        self._wish = self._wish._replace(run_id=store.run_id)  # so that a second try does not make a second run
        if not created and self._cursor.owned and not self._is_late:
            store.resume()
        return store

    def _introduce(self, store: RunStore) -> None:
        """Log what makes a run page readable from the first epoch on."""
        environment = {f"env.{name}": str(value) for name, value in self._environment.items()}
        store.set_tags({**environment, **self._tags, **self._resume_tags()})
        store.log_params(flatten(self._config))
        told = store.info()
        self._describe({key: value for key, value in told.items() if key not in ("status", "end_time_ms")})
        # The config with its types, and the environment, for whoever reads the run later: params are strings. The
        # post-run step replaces the file by the whole history.
        self.mirror.flush()
        if (self.mirror.directory / JSON_NAME).exists():
            store.log_file(self.mirror.directory / JSON_NAME, ARTIFACT_FOLDER)


def _cursor_of(run: Mapping[str, Any]) -> Cursor | None:
    """Return what a JSON's ``run`` says of the delivery, for a directory that lost its cursor (hidden files)."""
    if not run.get("run_id"):
        return None
    return Cursor(
        run_id=str(run["run_id"]),
        run_name=run.get("run_name"),
        experiment_name=run.get("experiment_name"),
        started_at_ms=run.get("start_time_ms") or 0,
        resumed_at_epochs=list(run.get("resumed_at_epochs") or []),
        status=run.get("status") or "RUNNING",
        ended_at_ms=run.get("end_time_ms"),
    )


def _picture(path: Path) -> Picture:
    """Return a picture file as what it is; its time is the file's, the same whenever it is sent."""
    parts = _PICTURE_FILE.fullmatch(path.name)
    if parts is None:
        raise UsageError(f"a picture's file must be named NAME_epoch_NUMBER.png, got {path.name}")
    return Picture(parts["name"], path, int(parts["epoch"]), path.stat().st_mtime_ns // 1_000_000)


def _png(image: NDArray[np.uint8]) -> bytes:
    import numpy as np
    from PIL import Image

    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):  # noqa: PLR2004
        raise UsageError(
            f"a picture must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), got {pixels.dtype} {pixels.shape}"
        )
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def unix_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
