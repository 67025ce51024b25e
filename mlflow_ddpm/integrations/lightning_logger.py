"""The run of Lightning's MLFlowLogger, which the tracker joins: two loggers, one run, also after a resume."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

_log = logging.getLogger("mlflow_ddpm")


class LoggerRun:
    """The run that an MLFlowLogger writes to."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._uri: str = logger._tracking_uri  # noqa: SLF001 - it has no public name

    @classmethod
    def find(cls, loggers: Iterable[Any]) -> Self | None:
        """Return the run of the first MLFlowLogger; None without one."""
        logger = next((logger for logger in loggers if type(logger).__name__ == "MLFlowLogger"), None)
        return None if logger is None else cls(logger)

    def target(self) -> dict[str, str]:
        """Return the tracker's arguments that join the run."""
        return {"run_id": self._logger.run_id, "tracking_uri": self._uri}

    def continue_run(self, run_id: str, directory: Path, since_ms: int) -> None:
        """Turn the logger to an earlier run; the empty one that it began after ``since_ms`` is deleted.

        A run that the user chose, or one with content, stays the logger's; then one warning names the remedy.
        """
        if run_id == self._logger.run_id:
            return
        client = self._logger.experiment
        try:
            experiment_id = client.get_run(run_id).info.experiment_id
            is_own = _is_empty(client.get_run(self._logger.run_id), since_ms)
        except Exception as error:  # noqa: BLE001 - another store, or a run that was deleted
            _log.warning("the run %s of %s is not in MLFlowLogger's store: %s", run_id, directory, error)
            return
        if not is_own:
            _log.warning(
                "%s holds the unfinished run %s, and MLFlowLogger writes to run %s; for one run pass "
                "MLFlowLogger(run_id=%r), or another output_dir",
                directory,
                run_id,
                self._logger.run_id,
                run_id,
            )
            return
        client.delete_run(self._logger.run_id)
        client.update_run(run_id, status="RUNNING")
        self._logger._run_id, self._logger._experiment_id = run_id, experiment_id  # noqa: SLF001 - no public names

    def will_end_as(self, status: str | None) -> None:
        """Let the logger end the run with this status; its own ends every training that was killed as FAILED."""
        finalize = self._logger.finalize

        def finalize_as(logger_status: str) -> None:
            finalize(logger_status)
            if status == "KILLED":
                self._logger.experiment.set_terminated(self._logger.run_id, status)

        self._logger.finalize = finalize_as


def _is_empty(run: Any, since_ms: int) -> bool:
    """Return whether a run was begun after a moment, by no user, and has nothing in it."""
    import mlflow

    active = mlflow.active_run()
    is_users = active is not None and active.info.run_id == run.info.run_id
    return not (is_users or run.data.metrics or run.data.params) and run.info.start_time >= since_ms
