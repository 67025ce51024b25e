"""What the log has of an outage: a line when it begins, one for each further cause, one when it is over."""

import contextlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.core.errors import RunMissingError, StoreError
from mlflow_ddpm.core.formatting import count_of, display_path
from mlflow_ddpm.storage.store_address import sync_command

_CAUSES_MAX = 5  # of one outage, that are logged
# Addresses, ids and ports differ in each message, and a server that stops resets, aborts and refuses connections.
_VARIABLE = re.compile(r"(?:the )?connection (?:refused|reset by peer|aborted|broke off)|0x[0-9a-f]+|[0-9a-f]{8,}|\d+")
Advice = Callable[[StoreError], str]

_log = logging.getLogger("mlflow_ddpm")


class OutageLog:
    """The outages of one lane, of "rows" or "files"; without ``advice`` nothing is logged, the caller reports itself.

    ``is_covered`` returns whether something else that was logged explains a failure, so that one cause is one warning.
    """

    def __init__(
        self, subject: str, advice: Advice | None, is_covered: Callable[[StoreError, int], bool] = lambda *_: False
    ) -> None:
        self._subject, self._advice, self._is_covered = subject, advice, is_covered
        self._causes: list[str] = []  # of the present outage, that were logged

    def failed(self, error: StoreError, failures: int = 1) -> None:
        """Log the cause, if it is a new one of the present outage."""
        cause = str(error)
        key = _VARIABLE.sub("#", cause)
        if (
            self._advice is None
            or key in self._causes
            or len(self._causes) >= _CAUSES_MAX
            or self._is_covered(error, failures)
        ):
            return
        self._causes.append(key)
        if len(self._causes) == 1:
            self._warn(f"{cause.rstrip('.')}. {self._advice(error)}")
        else:
            self._warn(f"{cause.rstrip('.')}: {self._subject} still wait for MLflow, now for this reason")

    def recovered(self) -> None:
        """Log the end of an outage that was logged."""
        if self._causes:
            self._causes = []
            self._warn(f"MLflow is back; all {self._subject} that waited have been sent")

    def _warn(self, text: str) -> None:
        with contextlib.suppress(Exception):  # a handler of the user's may raise; that must stop neither thread
            _log.warning("%s", text)


def kind_of_cause(error: Exception, name: str = "") -> str:
    """Return a cause without the item that the store did not take."""
    cause = re.sub(r"^MLflow at (\S+) (cannot take .*?|refused): ", r"\1 ", " ".join(str(error).split()))
    return cause.replace(name.rpartition("/")[2], "").rstrip(".")


class Unsent(NamedTuple):
    """What MLflow does not have at the end of a training."""

    rows: int
    files: int
    set_aside: int
    is_ended: bool


def advice(error: StoreError, directory: Path, tracking_uri: str) -> str:
    """Return what the log adds to the cause of an outage while a training runs."""
    remedy = _remedy(error, directory, tracking_uri)
    where = display_path(directory)
    return f"Training continues; what is not sent is kept in {where} and tried again; after the run, {remedy}"


def warn_unsent(
    unsent: Unsent, error: StoreError | None, directory: Path, tracking_uri: str, *, is_on_disk: bool
) -> None:
    """Log what MLflow does not have after all, where it is, and the command that sends it."""
    waiting = [count_of(count, noun) for count, noun in ((unsent.rows, "row"), (unsent.files, "file")) if count]
    what = " and ".join(waiting) or ("" if unsent.is_ended else "the end of the run")
    where = display_path(directory)
    if what:
        why = f" ({str(error).rstrip('.')})" if error else ""
        everything = "all but what is set aside" if unsent.set_aside else "everything"
        kept = f"{everything} is in {where}" if is_on_disk else f"not everything is in {where} either"
        _log.warning("not in MLflow yet: %s%s; %s: %s", what, why, kept, _remedy(error, directory, tracking_uri))
    elif unsent.set_aside:
        _log.warning(
            "MLflow does not have %s, set aside; `mlflow-ddpm status %s` lists why",
            count_of(unsent.set_aside, "item"),
            where,
        )


def missing_remedy(directory: Path | None, tracking_uri: str) -> str:
    """Return what helps where the store does not have the run; ``directory``: the one that has rows of it, if any."""
    if directory is None:
        return "pass the run_id of a run that is there, or unset MLFLOW_RUN_ID"
    return f"`{sync_command(directory, tracking_uri, is_lost=True)}` makes the run anew in that store"


def _remedy(error: StoreError | None, directory: Path, tracking_uri: str) -> str:
    if isinstance(error, RunMissingError):
        return missing_remedy(directory, tracking_uri)
    return f"`{sync_command(directory, tracking_uri)}` sends it"
