"""What MLflow has of the run in an output directory, and what waits: read from the disk alone."""

import contextlib
from pathlib import Path

from mlflow_ddpm.core.errors import HistoryError, MirrorError
from mlflow_ddpm.core.formatting import count_of, display_path, format_time, printable
from mlflow_ddpm.core.links import run_link, server_command
from mlflow_ddpm.storage.delivery_state import DeliveryState
from mlflow_ddpm.storage.directory_lock import is_locked
from mlflow_ddpm.storage.images import images_on_disk
from mlflow_ddpm.storage.json_file import read_document
from mlflow_ddpm.storage.layout import JSON_NAME
from mlflow_ddpm.storage.recovery import read_rows

_ITEMS_MAX = 10  # set-aside items listed one by one


def status_of(directory: Path) -> str:
    """Return a few aligned lines for a terminal, from the disk alone; raise HistoryError where no tracker wrote."""
    try:
        rows = read_rows(directory)  # first: it refuses links
    except OSError as error:
        raise MirrorError(f"{directory} cannot be read ({error.strerror}); make it readable") from error
    state = DeliveryState.load(directory)
    if state is None:
        raise HistoryError(f"{directory} is not the output directory of a training run; name one that a tracker wrote")
    waiting = sum(row.logged_at_ms > state.delivered_through_ms for row in rows)
    images = images_on_disk(directory)
    sent_or_aside = {*state.pictures, *(Path(name).name for name in state.set_aside)}
    new = len(images_on_disk(directory, but=sent_or_aside))
    unsent = len(images_on_disk(directory, but=state.pictures))
    files = sum(name not in state.set_aside for name in state.artifacts)
    is_complete = state.ended and not (waiting or new or files)
    held = is_locked(directory)
    lines = [
        ("run", f"{state.run_id or 'not created in MLflow yet'}{f' ({state.run_name})' if state.run_name else ''}"),
        ("store", state.tracking_uri or "not known"),
        ("status", _status(state, held=held)),
        (
            "windows" if state.every_n_steps else "epochs",
            f"{len(rows)} on disk, {len(rows) - waiting} in MLflow, {waiting} waiting",
        ),
        ("pictures", f"{len(images)} on disk, {len(images) - unsent} in MLflow, {new} waiting"),
        *([("files", f"{files} waiting")] if files else []),
        *_set_aside(state),
        ("next", _advice(directory, is_complete=is_complete, held=held, has_set_aside=bool(state.set_aside))),
        *_page(directory, state),
    ]
    return "\n".join([str(directory), *(f"  {name:<10}{printable(text)}" for name, text in lines)])


def _status(state: DeliveryState, *, held: bool) -> str:
    if held:
        return "RUNNING: a live process writes here"
    if state.status == "RUNNING":
        return "interrupted: the process ended without reporting a status"
    known = "MLflow has it" if state.ended else "not in MLflow yet"
    ended = format_time(state.ended_at_ms or 0)
    return f"{state.status}{ended and f' at {ended}'}; {known}"


def _page(directory: Path, state: DeliveryState) -> list[tuple[str, str]]:
    """Return the link to the run's page, and the command that serves a store without a server."""
    experiment_id = None
    with contextlib.suppress(MirrorError, OSError):
        experiment_id = read_document(directory / JSON_NAME, with_rows=False).run.get("experiment_id")
    if not (state.run_id and isinstance(experiment_id, str)):
        return []
    uri = state.tracking_uri
    command = server_command(uri, uri)
    link = ("page", run_link(uri, experiment_id, state.run_id))
    return [("server", command), link] if command else [link]


def _set_aside(state: DeliveryState) -> list[tuple[str, str]]:
    """Return a line for each item that the store does not take, with the reason."""
    items = list(state.set_aside.items())
    lines = [("set aside", f"{name}: {reason}") for name, reason in items[:_ITEMS_MAX]]
    more = len(items) - len(lines)
    return [*lines, ("set aside", f"{count_of(more, 'further item')}")] if more else lines


def _advice(directory: Path, *, is_complete: bool, held: bool, has_set_aside: bool) -> str:
    if is_complete and has_set_aside:
        return (
            "nothing: MLflow has everything but what is set aside; "
            f"mlflow-ddpm sync {display_path(directory)} tries it again"
        )
    if is_complete:
        return "nothing: MLflow has everything"
    if held:
        return "nothing: the process uploads by itself"
    return f"mlflow-ddpm sync {display_path(directory)}"
