"""Everything a report says, computed and worded, in no particular markup.

:func:`build_context` reads no file, no clock and no store, so the same history, config and file list give the same
context. Strings in it are plain text: escaping belongs to whoever renders it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from mlflow_ddpm.analysis.findings.rules import RULES, Finding, find_findings
from mlflow_ddpm.analysis.key_results import extra_results
from mlflow_ddpm.analysis.report_summary import summary_table
from mlflow_ddpm.core.extra_metrics import axis_label, metric
from mlflow_ddpm.core.formatting import NOT_MEASURED, format_epochs, format_number
from mlflow_ddpm.core.markdown import Code, Prose, Table, one_line
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics, finite_points, value_of
from mlflow_ddpm.core.run_summary import Summary, summarise
from mlflow_ddpm.core.strict_json import dumps, flatten
from mlflow_ddpm.reporting.manifest import OutputFile
from mlflow_ddpm.reporting.model_card import Result, data_set_name, front_matter

__all__ = ["MAX_EPOCH_ROWS", "Figure", "ReportContext", "build_context"]

MAX_EPOCH_ROWS = 1000
BEST_MARK = "★"
_RUN_LABELS = {
    "run_id": "Run id",
    "run_name": "Run name",
    "experiment_id": "Experiment id",
    "experiment_name": "Experiment",
    "started": "Started",
    "resumed_at_epochs": "Resumed at epochs",
}
# A run that publishes itself is still running; the same report is made again when it has ended.
_NOT_YET_KNOWN = {"status", "end_time_ms"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture and the words around it."""

    title: str
    link: str
    caption: str
    reading: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """The report's content, part by part; an empty part is left out of the rendered page."""

    front_matter: Mapping[str, Any]
    title: str
    lead: str
    summary: Table
    findings: Sequence[Finding]
    rules: int  # how many were asked
    dashboard: Figure | None
    figures: Sequence[Figure]
    sample: Figure | None
    config_json: str
    run: Table | None
    environment: Table | None
    legend: Table
    never_measured: Sequence[Code]
    epochs: Table | None
    epochs_shown: int
    epochs_total: int
    best_epoch: int | None
    missing_epochs: str
    manifest: Table
    run_id: str | None


def build_context(
    rows: Sequence[EpochMetrics],
    *,
    config: Mapping[str, Any],
    run: Mapping[str, Any],
    environment: Mapping[str, Any],
    figures: Mapping[str, Figure],
    samples: Sequence[OutputFile],
    files: Sequence[OutputFile],
) -> ReportContext:
    """Return the content. ``figures`` has the plots by name, in the page's order."""
    summary = summarise(rows)
    measured, never_measured = _split_measured(rows)
    shown = _thin(rows, summary.best_epoch)
    run_name = one_line(str(run.get("run_name") or ""))
    return ReportContext(
        front_matter=front_matter(name=run_name or "DDPM", config=config, results=_results(rows, summary)),
        title=f"Training report: {run_name}" if run_name else "Training report",
        lead=_lead(summary, data_set_name(config)),
        summary=summary_table(rows),
        findings=find_findings(rows, environment=environment, resumed_at_epochs=_resumes(run)),
        rules=len(RULES),
        dashboard=figures.get("training_dashboard"),
        figures=[figure for name, figure in figures.items() if name != "training_dashboard"],
        sample=_sample(samples),
        config_json=dumps(config, indent=2),
        run=_pairs(_run_facts(run), "Run", _RUN_LABELS),
        environment=_pairs(environment, "Environment", {}),
        legend=_legend(measured),
        never_measured=[Code(name) for name in never_measured],
        epochs=_epoch_table(shown, measured, summary.best_epoch) if rows else None,
        epochs_shown=len(shown),
        epochs_total=len(rows),
        best_epoch=summary.best_epoch,
        missing_epochs=_missing(rows),
        manifest=_manifest([*files, *samples]),
        run_id=_identifier(run.get("run_id")),
    )


def _split_measured(rows: Sequence[EpochMetrics]) -> tuple[list[str], list[str]]:
    """Return the names measured at least once, in the table's order and then the extras, and the others."""
    found = {name for row in rows for name, value in row.values().items() if value is not None}
    table = [m.name for m in METRICS]
    extras = sorted(found.difference(table))
    return [n for n in table if n in found] + extras, [n for n in table if n not in found and rows]


def _thin(rows: Sequence[EpochMetrics], best_epoch: int | None) -> list[EpochMetrics]:
    """Return all rows, or MAX_EPOCH_ROWS of them at most: evenly spaced, the first, last and best among them."""
    last = len(rows) - 1
    if last < MAX_EPOCH_ROWS:
        return list(rows)
    places = MAX_EPOCH_ROWS - 1  # one is kept for the best epoch
    kept = {round(i * last / (places - 1)) for i in range(places)}
    return [row for i, row in enumerate(rows) if i in kept or row.epoch == best_epoch]


def _lead(summary: Summary, data: str | None) -> str:
    what = "Denoising diffusion probabilistic model (DDPM)" + (f" trained on {data}" if data else "")
    if not summary.epochs:
        return f"{what}: no epoch has been recorded yet."
    length = "1 epoch" if summary.epochs == 1 else f"{summary.epochs} epochs"
    if summary.best_loss is None:
        return f"{what}: {length}, in none of which a finite loss was measured."
    return f"{what}: {length}, lowest mean loss {format_number(summary.best_loss)} at epoch {summary.best_epoch}."


def _results(rows: Sequence[EpochMetrics], summary: Summary) -> list[Result]:
    """Return what the model index states: the best and last loss, and the last finite value of each extra."""
    losses = finite_points(rows, "loss_mean")
    results: list[Result] = []
    if summary.best_loss is not None and losses:
        results.append(("loss", f"Training loss, lowest epoch mean (epoch {summary.best_epoch})", summary.best_loss))
        results.append(("loss", f"Training loss, last epoch mean (epoch {losses[-1][0]})", losses[-1][1]))
    results.extend(
        (of.name, f"{metric(of.name).label} (epoch {of.epoch})", of.value)
        for of in extra_results(rows)
        if of.value is not None
    )
    return results


def _sample(samples: Sequence[OutputFile]) -> Figure | None:
    if not samples:
        return None
    name = samples[-1].link.rsplit("/", 1)[-1]
    return Figure(title="Generated samples", link=samples[-1].link, caption=f"The latest sample grid, {name}.")


def _pairs(values: Mapping[str, Any], head: str, labels: Mapping[str, str]) -> Table | None:
    leaves = flatten(values)
    rows = [(labels.get(key, key), value) for key, value in leaves.items() if value not in ("", "None")]
    return Table((head, "Value"), rows, "ll") if rows else None


def _run_facts(run: Mapping[str, Any]) -> dict[str, Any]:
    facts = {key: value for key, value in run.items() if key not in _NOT_YET_KNOWN}
    facts["resumed_at_epochs"] = format_epochs(_resumes(run))
    start = facts.pop("start_time_ms", None)
    if isinstance(start, int):
        facts["started"] = f"{datetime.fromtimestamp(start // 1000, tz=UTC):%Y-%m-%d %H:%M:%S} UTC"
    return facts


def _resumes(run: Mapping[str, Any]) -> list[int]:
    return [epoch for epoch in run.get("resumed_at_epochs") or () if isinstance(epoch, int)]


def _legend(names: Sequence[str]) -> Table:
    entries = [metric(name) for name in names]
    rows = [(Code(m.name), m.label, m.unit, Prose(m.meaning)) for m in entries]
    return Table(("Name", "Column", "Unit", "Meaning"), rows, "llll")


def _epoch_table(rows: Sequence[EpochMetrics], names: Sequence[str], best_epoch: int | None) -> Table:
    head = [axis_label(name).replace(" (", "\n(") for name in names]
    cells = []
    for row in rows:
        line = [format_number(value_of(row, name)) for name in names]
        line[0] = f"{BEST_MARK} {line[0]}" if row.epoch == best_epoch else line[0]
        cells.append(line)
    return Table(head, cells, "r" * len(names))


def _missing(rows: Sequence[EpochMetrics]) -> str:
    """Return the epochs between the first and the last that have no row, as ranges."""
    ranges = [range(a.epoch + 1, b.epoch) for a, b in pairwise(rows)]
    return format_epochs(epoch for gap in ranges for epoch in gap)


def _manifest(files: Sequence[OutputFile]) -> Table:
    rows = [
        (Code(f.link), f.about, NOT_MEASURED if f.size is None else str(f.size), Code(f.sha256 or NOT_MEASURED))
        for f in files
    ]
    return Table(("File", "Content", "Bytes", "SHA-256"), rows, "llrl")


def _identifier(run_id: object) -> str | None:
    """Return a run id that may stand in a command line; None for anything else."""
    return run_id if isinstance(run_id, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9\-]{0,63}", run_id) else None
