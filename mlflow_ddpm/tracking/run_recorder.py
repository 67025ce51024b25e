"""One run being written: rows and pictures to the mirror first, then by courier to MLflow. Rank 0 alone has one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.analysis.history import store_of
from mlflow_ddpm.analysis.run_page import write_run_description
from mlflow_ddpm.core.atomic_file import replace_file, shown
from mlflow_ddpm.core.errors import MirrorError, RunMissingError, StoreUnavailableError, UsageError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.redaction import redact, redacted
from mlflow_ddpm.core.strict_json import flatten
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.images import encode_png, image_from_path, image_path, images_on_disk
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, DELIVERY_STATE_NAME, JSON_NAME
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.storage.mlflow_run import NONFINITE_TAG, RESUMED_TAG, MlflowRun
from mlflow_ddpm.storage.run_target import RunTarget, context_tags, open_run, resolve_run_target
from mlflow_ddpm.tracking.run_metadata import RunMetadata
from mlflow_ddpm.tracking.shutdown import RunOutcome
from mlflow_ddpm.tracking.uploader import Artifact, Tags, Uploader, UploadItem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RunRecorder", "unix_ms"]

_log = logging.getLogger("mlflow_ddpm")
_OPEN_WAIT_SEC = 9.0  # of the ten that a construction may take at most


class RunRecorder:
    """Opens or resumes the run of an output directory. Raises as :class:`mlflow_ddpm.MetricsTracker` does.

    With ``ending`` the training is over, and only the delivery of what waits is left.
    """

    def __init__(
        self,
        directory: Path,
        wish: RunTarget,
        *,
        config: object,
        tags: Mapping[str, str],
        environment: Mapping[str, Any],
        resume: bool,
        now_ms: Callable[[], int],
        ending: RunOutcome | None = None,
    ) -> None:
        began, self._pid = time.monotonic(), os.getpid()
        self._now_ms, self._is_late = now_ms, ending is not None
        self._about = RunMetadata.of(config, tags, environment)
        wish = wish._replace(run_name=wish.run_name and self._about.clean(wish.run_name))
        self.mirror = Mirror(directory.absolute())  # the journal stays where it is, whoever changes directory
        try:
            self._cursor, self._wish = self._resume_or_begin(wish, resume=resume)
            self._settle(self._cursor, ending)
        except (MirrorError, UsageError):
            self.mirror.abandon()
            raise
        self._has_nonfinite = bool(self._nonfinite_tags())
        self._resuming, self._posted_ms = bool(self.mirror.rows), self.next_timestamp() - 1
        wanted = {"run_id": self._wish.run_id, "run_name": self._wish.run_name}
        self._describe({key: value for key, value in wanted.items() if value})
        self.courier = Uploader(
            self.mirror.directory,
            self._cursor,
            open_store=self._open_store,
            introduce=self._introduce,
            conclude=self._conclude,
            parcels=self._undelivered(),
        )
        self.courier.save_cursor()
        self.mirror.flush()  # from here on a kill leaves enough behind for a resume or a sync
        self.courier.start()
        self.courier.wait_open(max(1.0, began + _OPEN_WAIT_SEC - time.monotonic()))
        if wish.run_id and isinstance(self.courier.fault, RunMissingError):
            self.courier.stop()
            self.mirror.abandon()
            self._forget_unless_written()
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
        self.mirror.write(row)
        if self._resuming:
            self._mark_resume(row.epoch)
        self._post_row(row)
        if row.nonfinite_batches and not self._has_nonfinite:
            self._has_nonfinite = True
            self.courier.post(Tags(self._nonfinite_tags()))

    def write_picture(self, name: str, image: NDArray[np.uint8], epoch: int) -> Path:
        """Keep a picture under ``samples/`` as PNG, then have it delivered.

        Raises:
            UsageError: the name is no plain file name, or the image is not (H, W), (H, W, 3) or (H, W, 4) of uint8.
        """
        path, content = image_path(self.mirror.directory, name, epoch), encode_png(image)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
        except OSError as error:
            self.mirror.warn(error)
            return path
        self._cursor.pictures = {k: v for k, v in self._cursor.pictures.items() if k != path.name}  # drawn anew
        self.courier.post(image_from_path(path))
        return path

    def write_artifact(self, path: Path) -> None:
        """Have a file of the specified tree logged among the run's artifacts."""
        self.courier.post(Artifact(path.absolute()))

    def next_timestamp(self) -> int:
        """Return the time for a new row: now, and in any case later than the last row's."""
        last = self.mirror.rows[-1].logged_at_ms if self.mirror.rows else 0
        return max(self._now_ms(), last + 1)

    def seconds_before(self, epoch: int) -> float:
        """Return the run's seconds up to an epoch, those before a resume included."""
        earlier = next((row for row in reversed(self.mirror.rows) if row.epoch < epoch), None)
        return (earlier.cumulative_time_sec if earlier else None) or 0.0

    def close(self, ending: RunOutcome, timeout: float) -> bool:
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
        is_safe = False
        try:
            done = self.courier.close(timeout)
        finally:
            self._describe({"run_id": self.run_id} if self.run_id else {})
            is_safe = self.mirror.close(ending._replace(at_ms=cursor.ended_at_ms))
        if not done:
            waiting, where = self.courier.waiting, shown(self.mirror.directory)
            what = f"{waiting} rows and pictures have" if waiting else "the end of the run has"
            safe = f"all is safe in {where}" if is_safe else f"not all of it is in {where}"
            _log.warning("%s not reached MLflow; %s: `mlflow-ddpm sync %s` sends it", what, safe, where)
        return done

    def _resume_or_begin(self, wish: RunTarget, *, resume: bool) -> tuple[DeliveryState, RunTarget]:
        directory = self.mirror.directory
        saved = DeliveryState.load(directory)
        before = saved or DeliveryState.of_run(self.mirror.previous_run)
        if before is None:
            return self._begin(resolve_run_target(wish))
        epochs, where = f"{len(self.mirror.rows)} epochs", shown(directory)
        if before.status == "FINISHED" and not resume:
            raise UsageError(
                f"{where} holds the finished run {before.run_id} ({epochs}); choose another output_dir, "
                "or pass resume=True (mlflow-ddpm train --resume) to add epochs to that run"
            )
        wanted = resolve_run_target(wish)
        if before.run_id and wanted.run_id not in (None, before.run_id, before.parent_run_id):
            raise UsageError(
                f"{where} holds run {before.run_id} ({epochs}), but run {wanted.run_id} is asked for; "
                "choose another output_dir, or the run that is there"
            )
        uri = store_of(before, wish.tracking_uri)
        before.tracking_uri = redact(uri)
        self._about.compare_config(self.mirror.previous_config)
        run_name, experiment_name = before.run_name, before.experiment_name  # of a run that is yet to be made
        if before.run_id:
            run_name, experiment_name = wish.run_name, wish.experiment_name
        found = RunTarget(uri, before.run_id or wanted.run_id, run_name, experiment_name, before.run_key)
        found = found._replace(is_own=saved is None or saved.delivered_through_ms > 0)
        return before, found

    def _begin(self, wish: RunTarget) -> tuple[DeliveryState, RunTarget]:
        cursor = DeliveryState(
            tracking_uri=redact(wish.tracking_uri),
            run_id=wish.run_id,
            run_name=wish.run_name,
            experiment_name=wish.experiment_name,
            started_at_ms=self._now_ms(),
            owned=wish.run_id is None,
        )
        return cursor, wish._replace(run_key=cursor.run_key)

    def _forget_unless_written(self) -> None:
        """Leave no trace of a run that does not exist in a directory that holds no other."""
        if not self.mirror.rows and not self.mirror.previous_run:
            for name in (DELIVERY_STATE_NAME, JSON_NAME):
                (self.mirror.directory / name).unlink(missing_ok=True)

    def _settle(self, cursor: DeliveryState, ending: RunOutcome | None) -> None:
        """Note how the training ended; None: it goes on."""
        if ending is None:
            cursor.status, cursor.ended_at_ms, cursor.final_tags = "RUNNING", None, {}
        else:
            told = {"error.type": ending.error_type, "error.message": ending.error_message}
            cursor.final_tags = {key: self._about.clean(value) for key, value in told.items() if value}
            cursor.status, cursor.ended_at_ms = ending.status, ending.at_ms or self._now_ms()
        cursor.ended = False

    def _undelivered(self) -> list[UploadItem]:
        """Return what an earlier life of this run left: rows, then pictures."""
        rows = [row for row in self.mirror.rows if row.logged_at_ms > self._cursor.delivered_through_ms]
        return [*rows, *images_on_disk(self.mirror.directory, but=self._cursor.pictures)]

    def _post_row(self, row: EpochMetrics) -> None:
        self._posted_ms = row.logged_at_ms
        self.courier.post(row)

    def _mark_resume(self, epoch: int) -> None:
        self._resuming = False
        self._cursor.resumed_at_epochs = [e for e in self._cursor.resumed_at_epochs if e < epoch] + [epoch]
        self.courier.save_cursor()
        self._describe({})
        self.courier.post(Tags(self._resume_tags()))

    def _nonfinite_tags(self) -> dict[str, str]:
        first = next((row.epoch for row in self.mirror.rows if row.nonfinite_batches), None)
        return {} if first is None else {NONFINITE_TAG: f"first in epoch {first}"}

    def _resume_tags(self) -> dict[str, str]:
        epochs = self._cursor.resumed_at_epochs
        return {RESUMED_TAG: ", ".join(map(str, epochs))} if epochs else {}

    def _describe(self, told: Mapping[str, Any]) -> None:
        """Have the JSON say what is known of the run, which a store may tell better than we do."""
        cursor = self._cursor
        ours = {"status": cursor.status, "start_time_ms": cursor.started_at_ms, "end_time_ms": cursor.ended_at_ms}
        ours["resumed_at_epochs"] = cursor.resumed_at_epochs
        self.mirror.describe(
            run=redacted({**ours, **told}).value, config=self._about.config, environment=self._about.environment
        )

    def _open_store(self) -> MlflowRun:
        if not self._cursor.tags:
            self._cursor.tags = context_tags({"mlflow_ddpm.output_dir": self.mirror.directory.name, **self._about.tags})
            self.courier.save_cursor()
        store, created = open_run(self._wish, started_at_ms=self._cursor.started_at_ms, tags=self._cursor.tags)
        if created and self._wish.run_id:  # a child of the run that was asked for, which another tracker writes to
            self._cursor.parent_run_id, self._cursor.owned = self._wish.run_id, True
        self._wish = self._wish._replace(run_id=store.run_id)  # so that a second try does not make a second run
        if not created and self._cursor.owned and not self._is_late:
            store.resume()
        return store

    def _introduce(self, store: MlflowRun) -> None:
        """Log what makes a run page readable from the first epoch on."""
        environment = {f"env.{name}": str(value) for name, value in self._about.environment.items()}
        store.set_tags({**environment, **self._about.tags, **self._resume_tags(), **self._nonfinite_tags()})
        store.log_params(flatten(self._about.config))
        told = store.info()
        self._describe({key: value for key, value in told.items() if key not in ("status", "end_time_ms")})
        # The config with its types, and the environment, for whoever reads the run later: params are strings. The
        # post-run step replaces the file by the whole history.
        self.mirror.flush()
        if (self.mirror.directory / JSON_NAME).exists():
            store.log_file(self.mirror.directory / JSON_NAME, ARTIFACT_FOLDER)

    def _conclude(self, store: MlflowRun) -> None:
        """Sum the run up on its page; publishing says more. A page that cannot be written keeps no run from ending."""
        try:
            write_run_description(
                store,
                list(self.mirror.rows),
                environment=self._about.environment,
                resumed_at_epochs=self._cursor.resumed_at_epochs,
                is_published=False,
            )
        except StoreUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - a server with limits of its own, or a rule that breaks on a history
            _log.warning("the run's page in MLflow does not sum it up (%s: %s)", type(error).__name__, error)


def unix_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
