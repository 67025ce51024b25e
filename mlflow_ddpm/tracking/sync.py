"""Late upload: what MLflow does not have of a run is sent from its output directory, by whoever has that."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlflow_ddpm.core.errors import HistoryError, RunMissingError, StoreError, StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.core.formatting import count_of
from mlflow_ddpm.core.metrics import EpochMetrics, keep_last_written
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.core.run_summary import RunOutcome
from mlflow_ddpm.storage.csv_file import read_csv
from mlflow_ddpm.storage.delivery_state import DeliveryState, StateFile
from mlflow_ddpm.storage.images import images_on_disk
from mlflow_ddpm.storage.json_file import RunDocument, read_document
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.storage.mlflow_call import is_first_use
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.storage.recovery import read_rows
from mlflow_ddpm.storage.run_target import RunTarget, open_run
from mlflow_ddpm.storage.store_address import store_of
from mlflow_ddpm.tracking.outage import missing_remedy
from mlflow_ddpm.tracking.remote_run import RemoteRun
from mlflow_ddpm.tracking.resume import restore_lost_rows, target_of
from mlflow_ddpm.tracking.run_metadata import RunMetadata, read_run_config
from mlflow_ddpm.tracking.upload_items import final_files, undelivered
from mlflow_ddpm.tracking.uploader import Uploader

_REPORT_SEC = 1.0
_AWAY_SEC = 30.0  # without an answer of the store, before a sync gives up


def sync_directory(
    directory: Path,
    *,
    tracking_uri: str | None = None,
    timeout: float = 300.0,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Send what waits in an output directory and return one line with the result.

    A run that never reached a store, or that another store than ``tracking_uri`` has, is created with its own start
    time. It may be interrupted and repeated at will; nothing is made twice.

    Args:
        directory: where a tracker wrote, here or elsewhere.
        tracking_uri: the tracking store; default: the one that has the run, else the one of MLflow's settings. A run
            that this store has lost is made anew there.
        timeout: seconds to wait for the store; one that does not answer at all is given up within a minute.
        progress: called when it changes with the number of rows and files that wait, now and at first.

    Raises:
        HistoryError: the directory is not one that a tracker wrote.
        UsageError: a live process is writing there, which uploads by itself; or only the directory names the store.
        StoreRefusedError: the store will not take the run.
        StoreUnavailableError: the store is away; everything is kept.
    """
    deadline = time.monotonic() + timeout
    rows = read_rows(directory)  # first: it refuses links
    document = _document_of(directory)
    state = DeliveryState.load(directory) or DeliveryState.of_run(document.run) or DeliveryState(status="")
    uri = store_of(state, tracking_uri)
    is_complete = state.ended and redact(uri) == state.tracking_uri and _has_all(state, directory, rows)
    if tracking_uri and state.run_id and _has_lost_run(state, uri):
        state.begin_anew()
        is_complete = False
    if is_complete and not _are_rows_lost(state, uri, directory, document):
        return f"{directory}: run {state.run_id} was complete in MLflow ({count_of(len(rows), 'row')})"
    state.tracking_uri = redact(uri)
    mirror, uploader = Mirror(directory.absolute()), None
    try:
        mirror.open()
        restore_lost_rows(mirror, state, uri, is_known=is_complete)
        is_known = _status(state, document) != "RUNNING"
        outcome = _outcome(state, document, mirror.rows)
        state.set_outcome(outcome)
        uploader = _start(mirror, state, uri, document)
        at_first = uploader.waiting_rows + uploader.waiting_files
        deadline = _wait(uploader, deadline, progress)
        if not is_known:  # an older copy of a directory that was continued elsewhere
            outcome = uploader.remote.earlier_outcome or outcome
        done = uploader.close(outcome, max(0.0, min(_AWAY_SEC, deadline - time.monotonic())))
    finally:
        if uploader:
            uploader.stop()
            mirror.close(outcome)
        else:
            mirror.abandon()
    count = count_of(len(mirror.rows), "row")
    if done:
        return f"{directory}: run {state.run_id} is complete in MLflow ({count})"
    if state.ended and state.set_aside and not uploader.waiting_files:
        name, cause = next(iter(state.set_aside.items()))
        more = f" and {len(state.set_aside) - 1} more" if len(state.set_aside) > 1 else ""
        return (
            f"{directory}: run {state.run_id} is in MLflow ({count}), without what it does not take: "
            f"{name}{more} ({cause})"
        )
    if uploader.last_error is None and not uploader.remote.is_open:
        raise StoreUnavailableError(f"MLflow at {redact(uri)} has not answered; everything is in {directory}")
    if isinstance(uploader.last_error, RunMissingError):
        raise RunMissingError(f"{uploader.last_error}; {missing_remedy(directory, uri)}")
    sent = at_first - uploader.waiting_rows - uploader.waiting_files
    raise uploader.last_error or StoreUnavailableError(
        f"the store took {sent} of {at_first} rows and files in {timeout:g} s; run the command again for the rest"
    )


def _document_of(directory: Path) -> RunDocument:
    path = directory / JSON_NAME
    if path.exists():
        return read_document(path)
    if DeliveryState.load(directory) is None:
        raise HistoryError(f"{directory} is not the output directory of a training run; nothing to send")
    return RunDocument()


def _start(mirror: Mirror, state: DeliveryState, uri: str, document: RunDocument) -> Uploader:
    """Return an uploader over the mirror that sends what the store does not have, and then ends the run."""
    file = StateFile(mirror.directory, state)
    tags = {key: text for key, text in state.tags.items() if not key.startswith(("mlflow.", "mlflow_ddpm."))}
    metadata = RunMetadata.create(read_run_config(mirror.directory, document.config), tags, document.environment)
    mirror.describe(config=metadata.config, environment=metadata.environment)
    mirror.update_run({**document.run, **state.as_run()})
    remote = RemoteRun(target_of(state, uri), mirror, file, metadata)
    items = [*undelivered(mirror.directory, mirror.rows, state), *final_files(mirror.directory)]
    uploader = Uploader(remote, file, advice=None, items=items)
    file.put()
    uploader.start()
    return uploader


def _wait(uploader: Uploader, deadline: float, progress: Callable[[int, int], None] | None) -> float:
    """Wait until everything is sent, reporting whenever less waits, or the store refuses or does not answer.

    Returns the deadline: earlier for a store that is away, later by the time that a new database's tables took.
    """
    remote = uploader.remote
    at_first = waiting = uploader.waiting_rows + uploader.waiting_files
    answered = time.monotonic()
    while (now := time.monotonic()) < min(deadline, answered + _AWAY_SEC):
        if is_first_use(remote.tracking_uri):  # making a new database's tables is no outage; its lock has a time-out
            uploader.wait_open(_REPORT_SEC)
            deadline, answered = deadline + time.monotonic() - now, time.monotonic()
            continue
        if uploader.flush(min(_REPORT_SEC, deadline - now)) or isinstance(uploader.last_error, StoreRefusedError):
            break
        left = uploader.waiting_rows + uploader.waiting_files
        if left == 0 and remote.is_open:
            break
        if left < waiting or (remote.is_open and uploader.last_error is None):
            answered = time.monotonic()
        if progress and left < waiting:
            progress(left, at_first)
        waiting = left
    return min(deadline, answered + _AWAY_SEC)


def _has_all(state: DeliveryState, directory: Path, rows: Sequence[EpochMetrics]) -> bool:
    sent = all(row.logged_at_ms <= state.delivered_through_ms for row in rows)
    waits = state.artifacts or state.set_aside or images_on_disk(directory, but=state.pictures)
    return sent and not waits


def _are_rows_lost(state: DeliveryState, tracking_uri: str, directory: Path, document: RunDocument) -> bool:
    """Return whether CSV, JSON or store lost rows of a run that ended. A store that is away is believed to have them.

    One that has later rows was written to from elsewhere, where the run continues.
    """
    copies = [read_csv(path) if (path := directory / CSV_NAME).exists() else [], document.rows]
    try:
        copies.append(MlflowRun(tracking_uri, state.run_id or "").read_rows())
    except RunMissingError:
        return True
    except StoreError:
        pass
    times = [{row.logged_at_ms for row in keep_last_written(rows, state.every_n_steps)} for rows in copies]
    went_on = max(set().union(*times), default=0) > state.delivered_through_ms
    return not went_on and any(other != times[0] for other in times)


def _status(state: DeliveryState, document: RunDocument) -> str:
    return state.status or str(document.run.get("status") or "RUNNING")


def _outcome(state: DeliveryState, document: RunDocument, rows: Sequence[EpochMetrics]) -> RunOutcome:
    """Return how the training ended. One that could not report it was killed, some time after its last row."""
    status = _status(state, document)
    last = rows[-1].logged_at_ms if rows else state.started_at_ms or None
    if status == "RUNNING":
        return RunOutcome("KILLED", at_ms=last)
    why = state.final_tags
    return RunOutcome(status, why.get("error.type", ""), why.get("error.message", ""), state.ended_at_ms or last)


def _has_lost_run(state: DeliveryState, tracking_uri: str) -> bool:
    """Return whether a store that is named explicitly does not have the run; a new one is then made there."""
    try:
        open_run(RunTarget(tracking_uri, state.run_id), started_at_ms=0, tags={})
    except RunMissingError:
        return True
    return False
