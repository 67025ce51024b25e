"""What the command line says at the end: where everything is, and how to look at it."""

from __future__ import annotations

import shlex
from pathlib import Path

from mlflow_ddpm.analysis.findings.rules import find_findings
from mlflow_ddpm.analysis.frame import rows_from_frame
from mlflow_ddpm.analysis.history import open_store, read_description, read_history
from mlflow_ddpm.core.atomic_file import shown
from mlflow_ddpm.core.extra_metrics import extra_value
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.redaction import redact
from mlflow_ddpm.core.run_summary import summarise
from mlflow_ddpm.publishing.publish import Published
from mlflow_ddpm.storage.layout import MODEL_FOLDER, REPORT_NAME, model_files

__all__ = ["closing_words"]


def closing_words(published: Published, tracking_uri: str | None) -> str:
    """Return a few aligned lines for a terminal."""
    rows = rows_from_frame(read_history(published.output_dir))
    lines = [("result", _result(rows))] if rows else []
    lines += _findings(rows, published.output_dir)
    lines.append(("report", shown(published.output_dir / REPORT_NAME)))
    lines.append(("plots", shown(published.output_dir / "training_dashboard.png") + " and ten more beside it"))
    for beside in sorted({path.parent for path in published.files} - {published.output_dir}):
        count = sum(path.parent == beside for path in published.files)
        lines.append((beside.name, f"{shown(beside)}: {count} files, figures with their data"))
    if model_files(published.output_dir):
        folder, where = shown(published.output_dir / MODEL_FOLDER), shown(published.output_dir)
        lines.append(("model", f"{folder}; draw with it: mlflow-ddpm sample {where}"))
    if published.run_id and published.uploaded:
        lines += _run_lines(published.run_id, tracking_uri)
    else:
        lines.append(
            ("MLflow", f"not reached; send the run later with: mlflow-ddpm sync {shown(published.output_dir)}")
        )
    return "\n".join(f"{name:<8}{text}" for name, text in lines)


def _result(rows: list[EpochMetrics]) -> str:
    summary = summarise(rows)
    parts = [f"{summary.epochs} epoch" + "s" * (summary.epochs != 1)]
    if summary.total_time_sec is not None:
        parts[0] += f" in {summary.total_time_sec:.0f} s"
    if summary.best_loss is not None:
        parts.append(f"best loss {summary.best_loss:.4f} (epoch {summary.best_epoch})")
    extra = rows[-1].extra
    accuracy, distance, real = (
        extra_value(extra, name) for name in ("sample/accuracy", "sample/frechet", "sample/real_frechet")
    )
    if accuracy is not None:
        parts.append(f"sample accuracy {accuracy:.1%}")
    if distance is not None and real is not None:
        parts.append(f"Fréchet distance {distance:.2f} (two halves of real images: {real:.2f})")
    return ", ".join(parts)


def _findings(rows: list[EpochMetrics], directory: Path) -> list[tuple[str, str]]:
    """Return a line for each finding; the report says more of it."""
    told = read_description(directory)
    resumed = told.run.get("resumed_at_epochs") or ()
    found = find_findings(rows, environment=told.environment, resumed_at_epochs=resumed)
    return [(finding.severity, f"{finding.title}, {finding.where}") for finding in found]


def _run_lines(run_id: str, tracking_uri: str | None) -> list[tuple[str, str]]:
    store = open_store(run_id, tracking_uri)
    info = store.info()
    page = f"/#/experiments/{info['experiment_id']}/runs/{run_id}"
    lines = [("run", f"{info['run_name']} ({run_id})")]
    if store.tracking_uri.startswith("http"):
        return [*lines, ("open", redact(store.tracking_uri).rstrip("/") + page)]
    command = f"mlflow ui --backend-store-uri {shlex.quote(_short(store.tracking_uri))}"
    return [*lines, ("open", f"{command}  then http://127.0.0.1:5000{page}")]


def _short(uri: str) -> str:
    """Return a sqlite URI relative to the working directory where that is possible: it is what people type."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.is_relative_to(Path.cwd()):
        return f"sqlite:///{path.relative_to(Path.cwd())}"
    return redact(uri)
