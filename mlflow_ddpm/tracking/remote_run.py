"""One run in its tracking store: opened, described, sent to, finished.

Every call blocks for as long as MLflow's time-outs allow: none is for the training thread. What the store does not take
is set aside.
"""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_ddpm.analysis.run_description import write_run_description
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.errors import ItemRefusedError, StoreError, StoreUnavailableError
from mlflow_ddpm.core.metrics import EpochMetrics, Point
from mlflow_ddpm.core.redaction import redacted
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.delivery_state import StateFile
from mlflow_ddpm.storage.images import LoggedImage
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.storage.mlflow_run import MlflowRun, clean_tags
from mlflow_ddpm.storage.run_target import RunTarget, context_tags, open_run
from mlflow_ddpm.storage.stored_rows import ROW_MARK, first_rows_tag
from mlflow_ddpm.tracking.resume import axis_tags, rows_of_stored_copy
from mlflow_ddpm.tracking.run_metadata import RunMetadata
from mlflow_ddpm.tracking.set_aside import SetAside
from mlflow_ddpm.tracking.system_metrics import start_system_metrics
from mlflow_ddpm.tracking.upload_items import Artifact, metric_name

_DESCRIBE_SEC = 300.0  # between two refreshes of the description while the run runs


class RemoteRun:
    """The run of an output directory in MLflow. Two threads use it: one sends rows and tags, one sends files."""

    def __init__(
        self,
        target: RunTarget,
        mirror: Mirror,
        state_file: StateFile,
        metadata: RunMetadata,
        *,
        has_system_metrics: bool = False,
    ) -> None:
        self._has_system_metrics = has_system_metrics
        self._monitor: Any = None  # MLflow's, of the system tab
        self._target, self._mirror, self._file, self._metadata = target, mirror, state_file, metadata
        self._state = state_file.state
        self._run: MlflowRun | None = None
        self._created = False
        self._logged: frozenset[tuple[str, int, int]] | None = None  # points; None: some may have arrived unheard
        self._named: set[tuple[int, int]] = set()  # step and time of first rows that the run names
        self._logged_images: tuple[str, ...] | None = None
        self.set_aside = SetAside(state_file, self._takes_tags)
        self._describe_at, self._described_ms = time.monotonic() + _DESCRIBE_SEC, 0
        self.earlier_outcome: RunOutcome | None = None  # how the run had ended when it was opened
        self._sent_files: list[str] = []  # that the run's description may show or link to

    @property
    def tracking_uri(self) -> str:
        """The store, credentials included."""
        return self._target.tracking_uri

    @property
    def is_open(self) -> bool:
        """Whether the run was found or created, and described."""
        return self._run is not None

    def open(self) -> None:
        """Find or create the run, and describe it: what makes its page readable from the first epoch on."""
        own = {"mlflow_ddpm.output_dir": self._mirror.directory.name}
        if not own.keys() <= self._state.tags.keys():
            self._file.put(tags=context_tags({**own, **self._metadata.tags}))
        sent_later = clean_tags(self._metadata.tags)  # one by one, if the store does not take them all
        tags = {key: text for key, text in self._state.tags.items() if key not in sent_later}
        run, created = open_run(self._target, started_at_ms=self._state.started_at_ms, tags=tags)
        if created and self._target.run_id:  # a child of the run that was asked for, which another tracker writes to
            self._file.put(parent_run_id=self._target.run_id, owned=True)
        self._target = self._target._replace(run_id=run.run_id)  # so that a second try does not make a second run
        self._created = self._created or created
        self._file.put(run_id=run.run_id)
        if self._state.owned and not created and self._state.status == "RUNNING":
            self.set_aside.send([run], lambda _: run.resume(), lambda _: "the run's status")
        self._describe(run)
        self._run = run
        if self._has_system_metrics and self._state.status == "RUNNING":
            self._monitor = start_system_metrics(run)

    def end_if_orphaned(self) -> None:
        """End a run that was created after the tracker had given up waiting for it: no one else would."""
        if self._created and self._state.owned and self._state.status != "RUNNING" and self._target.run_id:
            run = MlflowRun(self._target.tracking_uri, self._target.run_id)
            run.finish(self._state.status, self._state.ended_at_ms)

    def send_rows(self, rows: Sequence[EpochMetrics]) -> None:
        """Send rows, less what the store has, each with its first timestamp."""
        run = self._opened()
        try:
            if self._logged is None:
                self._logged = run.logged_points()
                rows = [*self._lost_rows(run), *rows]
            self._name_first_rows(run, rows)
            new = [p for row in rows for p in row.points() if (p.key, p.step, p.timestamp_ms) not in self._logged]
            self.set_aside.send(new, run.log_points, metric_name)
        except StoreError:
            self._logged = None  # the answer may have been lost on the way back
            raise
        self._file.put(delivered_through_ms=max(self._state.delivered_through_ms, rows[-1].logged_at_ms))

    def _name_first_rows(self, run: MlflowRun, rows: Sequence[EpochMetrics]) -> None:
        """Name those that follow from none that the store has: the first, and the first after each resume."""
        first, resumed = next(iter(self._mirror.rows), rows[0]), set(self._state.resumed_at_epochs)
        begins = {(r.epoch, r.logged_at_ms): r for r in (first, *rows) if r is first or r.epoch in resumed}
        if not begins.keys() <= self._named:
            self._send_tags(run, first_rows_tag(run.read_page().tags, begins.values()))
            self._named.update(begins)

    def _lost_rows(self, run: MlflowRun) -> list[EpochMetrics]:
        """Return rows that the store had acknowledged and does not have, as where a backup of it was put back."""
        sent = [row for row in list(self._mirror.rows) if row.logged_at_ms <= self._state.delivered_through_ms]
        with contextlib.suppress(StoreError):
            stored = run.times_of(ROW_MARK) if sent else set()
            return [row for row in sent if (row.epoch, row.logged_at_ms) not in stored]
        return []

    def send_points(self, points: Sequence[Point]) -> None:
        """Send points that belong to no row; the store may refuse them."""
        with contextlib.suppress(ItemRefusedError):
            self._opened().log_points(points)

    def send_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, over earlier values."""
        self._send_tags(self._opened(), tags)

    def send_image(self, image: LoggedImage) -> None:
        """Send a picture to the image view, and as a file."""
        run, name = self._opened(), self.name_of(image.path)
        if image.content is None and not os.path.exists(image.path):  # noqa: PTH110 - it never raises
            self._note_image(image)  # deleted since: nothing is left to send
            return
        try:
            if self._logged_images is None:
                self._logged_images = run.logged_images()
            at = {"epoch": image.epoch, "timestamp_ms": image.timestamp_ms}
            with image.file() as path:
                run.log_image(image.name, path, **at, logged=self._logged_images)
        except Exception as error:  # noqa: BLE001 - sorted there
            self._logged_images = None
            self.set_aside.add_file(name, error)
        else:
            self._note_image(image)
            if image.fits_page():
                self._sent_files.append(name)

    def send_file(self, artifact: Artifact) -> None:
        """Send a file; one that was deleted since, or cannot be sent, is set aside."""
        run, name = self._opened(), self.name_of(artifact.path)
        try:
            self._check_current(run, artifact.path)
            run.log_file(artifact.path, artifact.folder)
        except Exception as error:  # noqa: BLE001 - sorted there
            self.set_aside.add_file(name, error)
        else:
            self._sent_files.append(name)
            self._file.settle([name])

    def finish(self) -> None:
        """Send what comes after the last row, and end the run if the tracker created it."""
        run, state = self._opened(), self._state
        monitor, self._monitor = self._monitor, None
        if monitor:
            monitor.finish()
        if state.final_tags:
            self._send_tags(run, state.final_tags)
        if lost := self._lost_rows(run):
            self._logged = None
            self.send_rows(lost)
        self._summarise(run)
        if state.owned:
            run.finish(state.status, state.ended_at_ms)
        self._file.put(ended=True)

    def refresh_description(self) -> None:
        """Bring the run's description up to date, if it has new rows and five minutes are over."""
        if time.monotonic() >= self._describe_at and self._state.delivered_through_ms > self._described_ms:
            self._describe_at = time.monotonic() + _DESCRIBE_SEC
            self._described_ms = self._state.delivered_through_ms
            self._summarise(self._opened())

    def name_of(self, path: Path) -> str:
        """Return a file's name in the delivery state: relative to the output directory where it lies below it."""
        here = self._mirror.directory
        return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()

    def _check_current(self, run: MlflowRun, path: Path) -> None:
        """Bring a file of the run's history up to what is known now, and to what MLflow's copy of it holds."""
        if path not in (self._mirror.directory / CSV_NAME, self._mirror.directory / JSON_NAME):
            return
        if not self._created:
            self._mirror.restore(rows_of_stored_copy(run, path.name), "MLflow")
        revision = self._mirror.revision  # the training may write the next row meanwhile
        self._mirror.flush()
        if path not in self._mirror.current_files(revision):
            raise ItemRefusedError("the disk did not take its newest content")

    def _opened(self) -> MlflowRun:
        if self._run is None:
            raise StoreUnavailableError("the run is not open yet")
        return self._run

    def _describe(self, run: MlflowRun) -> None:
        environment = {f"env.{name}": str(value) for name, value in self._metadata.environment.items()}
        self._file.settle([name for name in self._state.set_aside if name.startswith(("tag ", "param "))])
        self._send_tags(run, {**environment, **self._metadata.tags, **axis_tags(self._state)})
        params = list(self._metadata.params.items())
        self.set_aside.send(params, lambda some: run.log_params(dict(some)), lambda p: f"param {p[0]}")
        inputs = [self._metadata.dataset] if self._metadata.dataset else []
        self.set_aside.send(inputs, run.log_datasets, lambda _: "the data set")
        known: dict[str, Any] = {}
        self.set_aside.send([run], lambda _: known.update(run.info()), lambda _: "the run's experiment")
        status, ended_ms = known.pop("status", "RUNNING"), known.pop("end_time_ms", None)
        self.earlier_outcome = None if status == "RUNNING" else RunOutcome(status, at_ms=ended_ms)
        self._mirror.update_run(redacted(known).value)  # what MLflow knows of the run comes from anyone

    def _send_tags(self, run: MlflowRun, tags: Mapping[str, str]) -> None:
        self.set_aside.send(list(tags.items()), lambda some: run.set_tags(dict(some)), lambda t: f"tag {t[0]}")

    def _takes_tags(self) -> bool:
        """Return whether the store takes a plain tag, so that another fault is an item's."""
        with contextlib.suppress(StoreError):
            now = {"mlflow.mlflow_ddpm.tried_at": str(time.time())}  # the same again would write nothing
            MlflowRun(self.tracking_uri, str(self._state.run_id)).set_tags(now)
            return True
        return False

    def _note_image(self, image: LoggedImage) -> None:
        on_disk = {image.path.name: image.timestamp_ms} if image.content is None else {}
        # In one save: a picture that is both sent and set aside would stay so.
        self._file.settle([self.name_of(image.path)], pictures=lambda sent: {**sent, **on_disk})

    def _summarise(self, run: MlflowRun) -> None:
        """Sum the run up on its page; publishing adds to it. A page that cannot be written keeps no run from ending."""
        self.set_aside.send([run], self._write_description, lambda _: "the run's description")

    def _write_description(self, runs: Sequence[MlflowRun]) -> None:
        try:
            rows, about = list(self._mirror.rows), self._metadata.environment
            history = RunHistory.create(rows, run=self._state.as_run(), environment=about)
            write_run_description(runs[0], history, artifacts=list(self._sent_files))
        except StoreUnavailableError:
            raise
        except Exception as error:  # a server with limits of its own, or a rule that breaks on a history
            raise ItemRefusedError(str(error) or type(error).__name__) from error
