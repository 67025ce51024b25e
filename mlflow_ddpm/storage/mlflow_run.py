"""Every call into MLflow.

Runs are always named by id through ``MlflowClient``: MLflow's active run is thread-local, so a fluent call from another
thread would make a second run. Calls block for as long as MLflow's own time-outs allow; the training thread makes none.
"""

import contextlib
import json
import re
import stat
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mlflow_ddpm.core.errors import (
    ItemRefusedError,
    NoArtifactsError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from mlflow_ddpm.core.metrics import EpochMetrics, Point
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, SAMPLES_FOLDER
from mlflow_ddpm.storage.mlflow_call import (
    artifact_repository,
    client,
    long_lived_objects_left_alone,
    translate_mlflow_errors,
)
from mlflow_ddpm.storage.mlflow_requests import ANSWER_SEC, SLOWEST, in_time
from mlflow_ddpm.storage.stored_rows import is_row_key, read_pages, read_stored_rows

STEPS_TAG = "mlflow_ddpm.every_n_steps"  # rows are windows of this many steps, and their numbers are steps done
RESUMED_TAG = "mlflow_ddpm.resumed_at_epochs"  # first epoch of each life of the run after the first
NONFINITE_TAG = "mlflow_ddpm.nonfinite"  # a loss or gradient norm was NaN or infinite
_PARAM_MAX, _TAG_MAX = 6000, 5000  # characters; limits of MLflow 2.9, the oldest server we support
_KEY_MAX = 250  # bytes: the file store makes files of keys
METRICS_PER_BATCH = 1000  # MLflow's limit of one request
_PAGE = 25_000  # points, as MLflow's client asks for


class MlflowPage(NamedTuple):
    """What a run's page shows, as far as we read or write it."""

    experiment_id: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]  # the last value of each


class MlflowRun:
    """One run in one tracking store.

    Every method raises :class:`StoreUnavailableError` for an outage and :class:`StoreRefusedError` for a refusal.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self.tracking_uri, self.run_id, self._keeps_files = tracking_uri, run_id, False
        with translate_mlflow_errors(tracking_uri):  # a file store refuses to be made, without its switch
            from mlflow.tracking._tracking_service import utils

            self._client = client(tracking_uri)
            # MLflow keeps the address by run id for the whole process: the server may have another port by now.
            getattr(utils, "_artifact_repos_cache", {}).pop(run_id, None)

    def info(self) -> dict[str, Any]:
        """Return what the JSON and the report say of the run: id, name, experiment, status, times (Unix ms), marks."""
        with translate_mlflow_errors(self.tracking_uri):
            run = self._client.get_run(self.run_id)
            experiment = self._client.get_experiment(run.info.experiment_id)
        return {
            "run_id": self.run_id,
            "run_name": run.info.run_name,
            "experiment_id": run.info.experiment_id,
            "experiment_name": experiment.name,
            "status": run.info.status,
            "start_time_ms": run.info.start_time,
            "end_time_ms": run.info.end_time,
            **({"every_n_steps": int(steps)} if (steps := run.data.tags.get(STEPS_TAG, "")).isdecimal() else {}),
            "resumed_at_epochs": [int(e) for e in re.findall(r"\d+", run.data.tags.get(RESUMED_TAG, ""))],
        }

    def logged_points(self) -> frozenset[tuple[str, int, int]]:
        """Return (key, step, timestamp) of every point. File stores keep a point that is sent twice, SQL stores not.

        A server may fail for ever on the history of one metric, whose points are then left out.
        """
        with translate_mlflow_errors(self.tracking_uri):
            keys = [key for key in self._client.get_run(self.run_id).data.metrics if is_row_key(key)]
        points: set[tuple[str, int, int]] = set()
        has_failed = False
        for key in keys:
            try:
                points.update((key, *place) for place in self.times_of(key))
            except StoreError:
                if has_failed:
                    raise
                has_failed = True
        return frozenset(points)

    def times_of(self, key: str) -> set[tuple[int, int]]:
        """Return (step, timestamp) of every point of one metric."""
        with translate_mlflow_errors(self.tracking_uri), long_lived_objects_left_alone():
            return {(p.step, p.timestamp) for p in self._history(key)}

    def logged_images(self) -> tuple[str, ...]:
        """Return the artifact paths of the image view: it would show an image that is sent twice as two."""
        try:
            return tuple(self._list_files("images"))
        except NoArtifactsError:
            raise
        except StoreRefusedError:  # credentials that may write, but not list
            return ()

    def log_points(self, points: Sequence[Point]) -> None:
        """Send points: one request as long as they fit into one."""
        from mlflow.entities import Metric

        metrics = [Metric(*point) for point in points]
        with translate_mlflow_errors(self.tracking_uri, "a batch of metrics"):
            for start in range(0, len(metrics), METRICS_PER_BATCH):
                batch = metrics[start : start + METRICS_PER_BATCH]
                self._client.log_batch(self.run_id, metrics=batch, synchronous=True)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log the params that the run does not have yet. Params cannot be changed, and ``mlflow run`` logs its own."""
        from mlflow.entities import Param

        with translate_mlflow_errors(self.tracking_uri, "a batch of params"):
            present = self._client.get_run(self.run_id).data.params
            wanted = {_key(k): clean_text(v)[:_PARAM_MAX] for k, v in params.items()}  # two names may become one
            new = [Param(k, v) for k, v in wanted.items() if k not in present]
            if new:
                self._client.log_batch(self.run_id, params=new, synchronous=True)

    def log_datasets(self, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Log data sets as inputs: ``name``, ``digest`` and ``source``; further keys are the profile."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for dataset in datasets:
            named = {key: str(dataset[key]) for key in ("name", "digest", "source")}
            profile = json.dumps({key: value for key, value in dataset.items() if key not in named})
            entity = Dataset(**named, source_type="local", profile=profile)
            inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", "training")]))
        with translate_mlflow_errors(self.tracking_uri, "the data set"):
            self._client.log_inputs(self.run_id, inputs)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, over earlier values."""
        from mlflow.entities import RunTag

        with translate_mlflow_errors(self.tracking_uri, "a batch of tags"):
            new = [RunTag(key, value) for key, value in clean_tags(tags).items()]
            self._client.log_batch(self.run_id, tags=new, synchronous=True)

    def log_image(self, name: str, png: Path, *, epoch: int, timestamp_ms: int, logged: Sequence[str] = ()) -> None:
        """Log a picture by step, as the run page's image view wants it, and as a plain artifact to download.

        An image that is among the ``logged`` ones is not sent to the view again.
        """
        import numpy as np
        from PIL import Image

        with translate_mlflow_errors(self.tracking_uri, png.name, is_file=True):
            _check_sendable(png)
            with Image.open(png) as picture:
                pixels = np.asarray(picture)
            # first: what the image view does not take can still be downloaded
            self._send_file(png, f"{ARTIFACT_FOLDER}/{SAMPLES_FOLDER}")
            if _is_logged(logged, name, epoch, timestamp_ms):
                self._client.set_tag(self.run_id, "mlflow.loggedImages", "true")  # an earlier try may have failed here
            else:
                at = {"step": epoch, "timestamp": timestamp_ms}
                self._client.log_image(self.run_id, pixels, key=name, **at, synchronous=True)

    def log_file(self, path: Path, folder: str) -> None:
        """Log a file as an artifact under ``folder``; one of the same name is replaced."""
        with translate_mlflow_errors(self.tracking_uri, path.name, is_file=True):
            _check_sendable(path)
            self._send_file(path, folder)

    def _send_file(self, path: Path, folder: str) -> None:
        """Send a file; the first time, look whether a server keeps it: a login page answers "200 OK", too."""
        is_odd = re.search(r"[?#%\x00-\x1f]", path.name)  # the client would cut the name in the request's address
        repository = None
        if is_odd or not self._keeps_files:
            repository = artifact_repository(self.tracking_uri, self.run_id)
        if is_odd and hasattr(repository, "_host_creds"):
            raise ItemRefusedError("MLflow's server keeps no name with ?, #, % or a line end; give it another name")
        limit = ANSWER_SEC + path.stat().st_size / SLOWEST  # MLflow's clients of FTP and SFTP know none
        in_time(limit, lambda: self._client.log_artifact(self.run_id, str(path), folder))
        if hasattr(repository, "_host_creds"):  # MLflow's own server
            with contextlib.suppress(StoreRefusedError):
                if f"{folder}/{path.name}" not in self._list_files(folder):
                    raise StoreUnavailableError(
                        f"MLflow at {redact(self.tracking_uri)} does not have a file that it has just accepted; "
                        "a login page or a proxy may stand in front of its artifacts"
                    )
        self._keeps_files = True

    def _list_files(self, folder: str) -> list[str]:
        with translate_mlflow_errors(self.tracking_uri):
            files = artifact_repository(self.tracking_uri, self.run_id).list_artifacts(folder)
            return [file.path for file in files if not file.is_dir]

    def read_page(self) -> MlflowPage:
        """Return the run's experiment, params, tags and last metric values, in one request."""
        with translate_mlflow_errors(self.tracking_uri):
            run = self._client.get_run(self.run_id)
        data = run.data
        return MlflowPage(run.info.experiment_id, dict(data.params), dict(data.tags), dict(data.metrics))

    def delete_tags(self, names: Sequence[str]) -> None:
        """Delete tags that the run has."""
        with translate_mlflow_errors(self.tracking_uri):
            for name in names:
                self._client.delete_tag(self.run_id, name)

    def resume(self) -> None:
        """Make the run RUNNING again, whatever it was."""
        with translate_mlflow_errors(self.tracking_uri):
            self._client.update_run(self.run_id, status="RUNNING")

    def finish(self, status: str, ended_at_ms: int | None) -> None:
        """End the run with FINISHED, FAILED or KILLED; by default at this moment."""
        from mlflow.entities import RunStatus

        at_ms = ended_at_ms or time.time_ns() // 1_000_000
        with translate_mlflow_errors(self.tracking_uri):  # set_terminated prints the URI, password included
            self._store.update_run_info(self.run_id, RunStatus.from_string(status), at_ms, None)

    def read_rows(self) -> list[EpochMetrics]:
        """Return every row that was ever logged, superseded ones included: see :mod:`storage.stored_rows`."""
        with translate_mlflow_errors(self.tracking_uri), long_lived_objects_left_alone():
            data = self._client.get_run(self.run_id).data
            return read_stored_rows(data.metrics, self._history, data.tags)

    def _history(self, key: str) -> list[Any]:
        return read_pages(partial(self._store.get_metric_history, self.run_id, key, _PAGE), key)

    @property
    def _store(self) -> Any:
        return self._client._tracking_client.store  # noqa: SLF001 - the public methods read without bound, and print


def clean_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags as every store takes them: their lengths and characters."""
    return {_key(key): clean_text(str(value))[:_TAG_MAX] for key, value in tags.items()}


def _check_sendable(path: Path) -> None:
    """Raise ItemRefusedError for no plain file: MLflow would wait for ever in a pipe, and send a whole folder."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ItemRefusedError(f"{path.name} is a directory; log its files one by one")
        if not stat.S_ISREG(mode):
            raise ItemRefusedError(f"{path.name} is a pipe, a socket or a device; expected a plain file")
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ItemRefusedError(f"{path.name} cannot be read ({error.strerror or error})") from error


def _is_logged(logged: Sequence[str], name: str, epoch: int, timestamp_ms: int) -> bool:
    """Return whether the image view has this picture; its file comes in two sizes, the small one last."""
    parts = ("step", str(epoch), "timestamp", str(timestamp_ms), "")
    starts = tuple("images/" + separator.join((name, *parts)) for separator in "+%")
    return any(path.startswith(starts) and path.endswith("compressed.webp") for path in logged)


def clean_text(value: str) -> str:
    """Return the text without what a database refuses: zero bytes (PostgreSQL), and bytes that are no Unicode."""
    return value.replace("\0", "").encode("utf-8", "replace").decode()


def _key(name: str) -> str:
    """Return a param or tag name with what MLflow would refuse in it replaced."""
    clean = re.sub(r"[^\w\-. :/]", "_", name).strip("/").encode()[:_KEY_MAX].decode(errors="ignore")
    parts = ["_" if part in (".", "..") else part for part in clean.split("/") if part]  # they may become folders
    return "/".join(parts) or "_"
