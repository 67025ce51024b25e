"""Follow a diffusion training run on MLflow.

A :class:`MetricsTracker` turns each epoch into one row, mirrors it to CSV and JSON on disk and delivers it to MLflow;
after the run, plots and a report are made from the history that comes back from the tracking store::

    from mlflow_ddpm import MetricsTracker, generate_all_plots, generate_report

    with MetricsTracker(output_dir="my_metrics") as tracker:
        for epoch in range(num_epochs):
            tracker.start_epoch(epoch)
            for batch in dataloader:
                loss, grad_norm = train_step(batch)
                tracker.log_batch(loss=loss, lr=lr, grad_norm=grad_norm, batch_size=len(batch))
            tracker.end_epoch(model=model, ema_model=ema_model)

Importing the package loads neither torch, mlflow, pandas nor matplotlib: what needs them is resolved at first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mlflow_ddpm.core.errors import (
    ConfigError,
    DataError,
    HistoryError,
    ItemRefusedError,
    MirrorError,
    MlflowDdpmError,
    ModelError,
    NoArtifactsError,
    PeerLostError,
    RunMissingError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
    UsageError,
)
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.version import __version__

if TYPE_CHECKING:
    from mlflow_ddpm.analysis.history import read_history
    from mlflow_ddpm.ddpm.saved_model.load import load_model
    from mlflow_ddpm.plots import FigureSet, generate_all_plots
    from mlflow_ddpm.publishing.compare import compare_runs
    from mlflow_ddpm.publishing.download import download_run
    from mlflow_ddpm.publishing.hub_folder import export_run
    from mlflow_ddpm.publishing.publish import publish_run
    from mlflow_ddpm.report import generate_report
    from mlflow_ddpm.tracker import MetricsTracker
    from mlflow_ddpm.tracking.probes import compute_grad_norm

__all__ = [
    "ConfigError",
    "DataError",
    "EpochMetrics",
    "FigureSet",
    "HistoryError",
    "ItemRefusedError",
    "MetricsTracker",
    "MirrorError",
    "MlflowDdpmError",
    "ModelError",
    "NoArtifactsError",
    "PeerLostError",
    "RunMissingError",
    "StoreError",
    "StoreRefusedError",
    "StoreUnavailableError",
    "UsageError",
    "__version__",
    "compare_runs",
    "compute_grad_norm",
    "download_run",
    "export_run",
    "generate_all_plots",
    "generate_report",
    "load_model",
    "publish_run",
    "read_history",
]

_HOME = {
    "FigureSet": "plots",
    "MetricsTracker": "tracker",
    "compare_runs": "publishing.compare",
    "compute_grad_norm": "tracking.probes",
    "download_run": "publishing.download",
    "export_run": "publishing.hub_folder",
    "generate_all_plots": "plots",
    "generate_report": "report",
    "load_model": "ddpm.saved_model.load",
    "publish_run": "publishing.publish",
    "read_history": "analysis.history",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mlflow_ddpm' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"mlflow_ddpm.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
