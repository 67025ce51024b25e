"""MLflow's own system metrics (CPU, memory, disk, network, GPU) for a run of ours: its page's system tab."""

import importlib.util
import inspect
import logging
import os
from typing import Any

from mlflow_ddpm.storage.mlflow_run import MlflowRun

_log = logging.getLogger("mlflow_ddpm")
_SETTING = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"


def wants_system_metrics(choice: bool | None) -> bool:  # noqa: FBT001 - one argument, named for what it is
    """Return what the user chose; by default MLflow's own setting."""
    return os.environ.get(_SETTING, "").strip().lower() in ("true", "1") if choice is None else choice


def start_system_metrics(run: MlflowRun) -> Any:
    """Sample the machine on a daemon thread of MLflow's, after the last sample that the run has.

    Returns MLflow's monitor, whose ``finish`` ends it and has the last samples sent; None, and one line in the log,
    where something keeps MLflow from it.
    """
    if importlib.util.find_spec("psutil") is None:
        _log.warning("no system metrics: psutil is not installed; pip install psutil")
        return None
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if "tracking_uri" not in inspect.signature(SystemMetricsMonitor).parameters:
            _log.warning("no system metrics: this MLflow's monitor cannot be given a store; pip install -U mlflow")
            return None
        logging.getLogger("mlflow.system_metrics.system_metrics_monitor").addFilter(_is_warning)
        monitor = SystemMetricsMonitor(run.run_id, resume_logging=True, tracking_uri=run.tracking_uri)
        monitor.start()
    except Exception as error:  # noqa: BLE001 - a sensor that cannot be read is no reason to stop a training
        _log.warning("no system metrics: %s: %s", type(error).__name__, error)
        return None
    return monitor


def _is_warning(record: logging.LogRecord) -> bool:
    """Drop what MLflow logs when all is well."""
    return record.levelno >= logging.WARNING
