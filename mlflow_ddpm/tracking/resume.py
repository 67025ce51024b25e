"""Which run the next rows of an output directory belong to, and what an earlier process left unsent."""

import logging
from collections.abc import Callable, Sequence

from mlflow_ddpm.core.errors import MirrorError, StoreError, UsageError
from mlflow_ddpm.core.formatting import count_of, display_path
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.storage.artifacts import fetched_file
from mlflow_ddpm.storage.csv_file import read_csv
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.json_file import read_document
from mlflow_ddpm.storage.layout import JSON_NAME
from mlflow_ddpm.storage.mirror import Mirror
from mlflow_ddpm.storage.mlflow_run import RESUMED_TAG, STEPS_TAG, MlflowRun
from mlflow_ddpm.storage.run_target import RunTarget, resolve_run_target
from mlflow_ddpm.storage.store_address import store_of

_log = logging.getLogger("mlflow_ddpm")


def move_finished(mirror: Mirror, target: RunTarget) -> bool:
    """Move aside the directory of a finished run that is not asked for, or raise UsageError; return whether it did."""
    directory = mirror.directory
    state = DeliveryState.load(directory) or DeliveryState.of_run(mirror.previous_run)
    if state is None or state.status != "FINISHED":
        return False
    if state.run_id and resolve_run_target(target).run_id == state.run_id:  # a second history in it would be mixed up
        return False
    aside = display_path(mirror.move_aside())
    is_whole = state.ended and all(row.logged_at_ms <= state.delivered_through_ms for row in mirror.rows)
    _log.warning(
        "%s held the finished run %s (%s): its directory is now %s%s, and a new run begins; resume=True adds rows to "
        "the finished one instead",
        display_path(directory),
        state.run_name or state.run_id,
        count_of(len(mirror.rows), "row"),
        aside,
        "" if is_whole else f", from where `mlflow-ddpm sync {aside}` sends what MLflow does not have yet",
    )
    return True


def begin_or_resume(
    mirror: Mirror, target: RunTarget, now_ms: Callable[[], int], *, resume: bool
) -> tuple[DeliveryState, RunTarget]:
    """Return the state of the run that the directory holds, else of a new one, and that run's target.

    Raises UsageError where the directory holds a finished run, another run than the one asked for, or one of a store
    to which the user's credentials do not go.
    """
    state = DeliveryState.load(mirror.directory) or DeliveryState.of_run(mirror.previous_run)
    if state is None:
        target = resolve_run_target(target)
        state = DeliveryState(
            tracking_uri=redact(target.tracking_uri),
            run_id=target.run_id,
            run_name=target.run_name,
            experiment_name=target.experiment_name,
            started_at_ms=now_ms(),
            owned=target.run_id is None,
        )
        return state, target._replace(run_key=state.run_key)
    count, where = count_of(len(mirror.rows), "row"), display_path(mirror.directory)
    if state.status == "FINISHED" and not resume:
        raise UsageError(
            f"{where} holds the finished run {state.run_id} ({count}); choose another output_dir, "
            "or pass resume=True (mlflow-ddpm train --resume) to add to that run"
        )
    wanted = resolve_run_target(target)
    if state.run_id and wanted.run_id not in (None, state.run_id, state.parent_run_id):
        raise UsageError(
            f"{where} holds run {state.run_id} ({count}), but run {wanted.run_id} is asked for; "
            "choose another output_dir, or the run that is there"
        )
    uri = store_of(state, target.tracking_uri)
    state.tracking_uri = redact(uri)
    restore_lost_rows(mirror, state, uri)
    found = target_of(state, uri)
    if state.run_id:
        return state, found._replace(run_name=target.run_name, experiment_name=target.experiment_name)
    return state, found._replace(run_id=wanted.run_id)


def axis_tags(state: DeliveryState) -> dict[str, str]:
    """Return the tags by which a run's axis and the epochs of its resumes come back from the store."""
    texts = {STEPS_TAG: str(state.every_n_steps or ""), RESUMED_TAG: ", ".join(map(str, state.resumed_at_epochs))}
    return {name: text for name, text in texts.items() if text}


def set_axis(mirror: Mirror, state: DeliveryState, every_n_steps: int | None) -> None:
    """Note whether rows are epochs or windows of steps; raise UsageError if there are rows of the other kind."""
    was_by_steps, is_by_steps = state.every_n_steps is not None, every_n_steps is not None
    if mirror.rows and was_by_steps != is_by_steps:
        remedy = "pass every_n_steps" if was_by_steps else "leave every_n_steps out"
        raise UsageError(
            f"{display_path(mirror.directory)} holds a run by {'steps' if was_by_steps else 'epochs'}; {remedy}, or "
            "choose another output_dir"
        )
    state.every_n_steps = every_n_steps


def restore_lost_rows(mirror: Mirror, state: DeliveryState, tracking_uri: str, *, is_known: bool = False) -> None:
    """Take rows that the store had acknowledged, and that the files lost, from the store; unknown, it is asked.

    Rows that the store lost, as by a backup that was put back, count as not delivered. ``is_known``: the files lost
    rows, or the store did.
    """
    have_files_lost = (mirror.rows[-1].logged_at_ms if mirror.rows else 0) < state.delivered_through_ms
    if not state.run_id or not (is_known or have_files_lost or state.is_from_json):
        return
    try:
        stored = MlflowRun(tracking_uri, state.run_id).read_rows()
        mirror.restore(stored, redact(tracking_uri))
    except (StoreError, MirrorError) as error:
        level = logging.WARNING if have_files_lost else logging.DEBUG
        _log.log(level, "rows of %s are lost, and could not be restored from MLflow: %s", mirror.directory, error)
    else:
        times = {row.logged_at_ms for row in stored}
        missing = [row.logged_at_ms - 1 for row in mirror.rows if row.logged_at_ms not in times]
        state.delivered_through_ms = min([state.delivered_through_ms, *missing])


def rows_of_stored_copy(run: MlflowRun, name: str) -> Sequence[EpochMetrics]:
    """Return the rows of MLflow's copy of the CSV or JSON; none if it is not there, damaged or not ours.

    A directory may have lost epochs, or be an older copy of another machine's: what MLflow's copy has is restored
    before ours replaces it.
    """
    try:
        with fetched_file(run, name) as path:
            if path is None:
                return ()
            return read_document(path).rows if name == JSON_NAME else read_csv(path)
    except MirrorError:
        return ()


def target_of(state: DeliveryState, tracking_uri: str) -> RunTarget:
    """Return the target of a directory's run in a store: its own, unless it joined a run and no row arrived there."""
    names, is_own = (state.run_name, state.experiment_name), state.owned or state.delivered_through_ms > 0
    return RunTarget(tracking_uri, state.run_id, *names, state.run_key, is_own=is_own)
