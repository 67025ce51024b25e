"""What an uploader is given to send, and how that is sent where the store does not take all of it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from mlflow_ddpm.core.errors import ItemRefusedError, RunMissingError, StoreError, StoreRefusedError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.images import LoggedImage
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER
from mlflow_ddpm.storage.stored_rows import Point

_T = TypeVar("_T")
_FAILURES_MAX = 12  # one after the other, before the store is at fault


class Tags(NamedTuple):
    """Tags that became known while the run runs."""

    tags: Mapping[str, str]


class Artifact(NamedTuple):
    """A file, and the folder of the run's artifacts it goes to."""

    path: Path
    folder: str


UploadItem = EpochMetrics | Tags | LoggedImage | Artifact


def folder_of(path: Path, directory: Path) -> str:
    """Return where a file is logged: one in a folder of the output directory keeps that folder."""
    here, parent = directory.absolute(), path.absolute().parent
    below = parent.relative_to(here) if parent.is_relative_to(here) else Path()
    return (Path(ARTIFACT_FOLDER) / below).as_posix()


def metric_name(point: Point) -> str:
    """Return the name of a point in the delivery state."""
    return f"metric {point.key}, step {point.step}"


def send_apart(
    items: Sequence[_T],
    send: Callable[[Sequence[_T]], object],
    is_store_there: Callable[[], bool],
    *,
    is_suspect: bool,
    are_alike: bool,
) -> list[tuple[_T, StoreError]]:
    """Send all at once; what is not taken together in halves, until what is not taken stands alone; return that.

    A fault that may pass, or a refusal, is an item's only if the store takes other things meanwhile.

    Args:
        items: what to send.
        send: sends some of them.
        is_store_there: returns whether the store takes what it has taken before.
        is_suspect: the same failed before, so that it may fail for ever.
        are_alike: the store takes either all of them or none, but for their values.

    Raises:
        StoreError: the store is at fault.
    """
    refused: list[tuple[_T, StoreError]] = []
    waiting, has_taken, failures = [(items, 0)] if items else [], False, 0
    while waiting:
        some, tries = waiting.pop()
        try:
            send(some)
            has_taken, failures = True, 0
            continue
        except StoreError as error:
            fault, is_items = error, isinstance(error, ItemRefusedError)
            failures += not is_items
            if not is_items and not _may_be_items(error, is_suspect=is_suspect):
                raise
            if not is_items and failures in (1, _FAILURES_MAX) and not is_store_there():
                raise
            if failures == _FAILURES_MAX and are_alike:
                raise
        if failures == _FAILURES_MAX:  # all of them, it seems
            refused += [(item, fault) for rest, _ in [*waiting, (some, 0)] for item in rest]
            break
        if len(some) > 1:
            half = len(some) // 2
            waiting += [(some[half:], 0), (some[:half], 0)]
        elif is_items or tries:
            refused.append((some[0], fault))
        else:  # it is tried again after the others
            waiting.insert(0, (some, 1))
    if are_alike and len(items) > 1 and not has_taken and refused and not isinstance(refused[-1][1], ItemRefusedError):
        raise refused[-1][1]
    return refused


def _may_be_items(error: StoreError, *, is_suspect: bool) -> bool:
    return not isinstance(error, RunMissingError) and (is_suspect or isinstance(error, StoreRefusedError))
