"""The last lines of a command that made a run's files: the result, where everything is, how to look at it."""

import os
from collections.abc import Iterable
from pathlib import Path

from mlflow_ddpm.analysis.findings.rules import find_findings
from mlflow_ddpm.analysis.history import load_history
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.errors import StoreUnavailableError
from mlflow_ddpm.core.extra_metrics import extra_value
from mlflow_ddpm.core.formatting import count_of, display_path, format_duration, printable
from mlflow_ddpm.core.links import run_link, server_command
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.publishing.publish import Published
from mlflow_ddpm.storage.layout import DASHBOARD_NAME, MODEL_FOLDER, REPORT_NAME, model_files
from mlflow_ddpm.storage.run_search import open_store

Line = tuple[str, str]  # a name and a text; a line without a name stands alone: a link, which must not break
_WIDTH = 8  # of names: "warning" is the longest


def run_overview(published: Published, tracking_uri: str | None) -> str:
    """Return a few aligned lines for a terminal."""
    history = load_history(published.output_dir)
    lines: list[Line] = [("result", _result(history))] if history.rows else []
    lines += [(finding.severity, f"{finding.title}, {finding.where}") for finding in find_findings(history)]
    lines.append(("report", display_path(published.output_dir / REPORT_NAME)))
    lines.append(("plots", display_path(published.output_dir / DASHBOARD_NAME) + " and ten more in the same folder"))
    for beside in sorted({file.parent for file in published.files} - {published.output_dir}):
        count = sum(file.parent == beside for file in published.files)
        lines.append((beside.name, f"{display_path(beside)}: {count} files, figures with their data"))
    if model_files(published.output_dir):
        folder, where = display_path(published.output_dir / MODEL_FOLDER), display_path(published.output_dir)
        lines.append(("model", f"{folder}; draw images with: mlflow-ddpm sample {where}"))
    if published.run_id and published.uploaded:
        lines += run_lines(published.run_id, published.tracking_uri or tracking_uri)
    else:
        lines.append(
            ("MLflow", f"not reached; send the run later with: mlflow-ddpm sync {display_path(published.output_dir)}")
        )
    return aligned(lines)


def aligned(lines: Iterable[Line]) -> str:
    """Return lines with their texts aligned. Nothing is wrapped, so that paths, commands and links can be copied."""
    return "\n".join(f"{name:<{_WIDTH}}{printable(text)}" if name else text for name, text in lines)


def _result(history: RunHistory) -> str:
    summary = history.summary
    parts = [history.worded(count_of(summary.epochs, "epoch"))]
    times = (("training", summary.training_time_sec), ("total", summary.total_time_sec))
    parts += [f"{name} time {format_duration(round(seconds, 1))}" for name, seconds in times if seconds is not None]
    if summary.best_loss is not None:
        parts.append(history.worded(f"best loss {summary.best_loss:.4f} (epoch {summary.best_epoch})"))
    extra = history.rows[-1].extra
    accuracy, distance, real = (
        extra_value(extra, name) for name in ("sample/accuracy", "sample/frechet", "sample/real_frechet")
    )
    if accuracy is not None:
        parts.append(f"sample accuracy {accuracy:.1%}")
    if distance is not None and real is not None:
        parts.append(f"Fréchet distance {distance:.2f} (two halves of real images: {real:.2f})")
    return ", ".join(parts)


def run_lines(run_id: str, tracking_uri: str | None) -> list[Line]:
    """Return the run's name and id, and the link to its page."""
    store = open_store(run_id, tracking_uri)
    try:
        info = store.info()
    except StoreUnavailableError:  # everything is uploaded: the store may be away by now
        return [("run", run_id)]
    lines: list[Line] = [("run", f"{redact(info['run_name'])} ({run_id})")]
    link = run_link(store.tracking_uri, info["experiment_id"], run_id)
    if command := server_command(store.tracking_uri, _short(store.tracking_uri)):
        lines.append(("server", command))
    return [*lines, ("", link)]


def _short(uri: str) -> str:
    """Return a sqlite URI relative to the working directory where that is possible: it is what people type."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.is_relative_to(Path.cwd()) and not os.environ.get("MLFLOW_RUN_ID"):
        return f"sqlite:///{path.relative_to(Path.cwd())}"
    return redact(uri)
