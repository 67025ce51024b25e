"""The report's content, computed and worded, in no particular markup.

:func:`build_context` reads no file, no clock and no store, so the same history, config and file list give the same
context. Strings in it are plain text: escaping belongs to whoever renders it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mlflow_ddpm.analysis.findings.rules import RULES, Finding, find_findings
from mlflow_ddpm.analysis.key_results import extra_results, key_results_table
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.extra_metrics import PIPELINE_METRICS, axis_label, metric
from mlflow_ddpm.core.formatting import NOT_MEASURED, count_of, format_number, format_time
from mlflow_ddpm.core.markdown import Code, Prose, Table, one_line
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics
from mlflow_ddpm.core.run_summary import Summary
from mlflow_ddpm.core.strict_json import dumps, flatten
from mlflow_ddpm.reporting.manifest import OutputFile
from mlflow_ddpm.reporting.model_card import Result, data_set_name, front_matter

# What keeps the table of epochs, the only one that is capped, below 1 MB; the CSV has everything.
MAX_EPOCH_ROWS = 1000
_MAX_EXTRAS = 60  # in the table of epochs
_MAX_EXTRAS_TEXT = 200_000  # characters, in the same
_PRINTED_COLUMNS = 24  # of the table of epochs on a landscape page; if there are more, the extras are not printed
_PAGE_PT, _COLUMN_EM, _LARGEST_PT = 780, 7.0, 8.0  # width of that page, of a column; font size
_CELL = 12  # characters of a number with its rules
BEST_MARK = "★"
_RUN_LABELS = {
    "run_id": "Run id",
    "run_name": "Run name",
    "experiment_id": "Experiment id",
    "experiment_name": "Experiment",
    "started": "Started",
    "every_n_steps": "Steps per row",
    "resumed_at_epochs": "Resumed at epochs",
    "resumed_at_steps": "Resumed at steps",
}
# A run that publishes itself is still running: the same report is made again when it has ended. `owned` is ours, and
# the others are shown under other names.
_NOT_SHOWN = {"status", "end_time_ms", "owned", "start_time_ms", "resumed_at_epochs"}


@dataclass(frozen=True, kw_only=True)
class ReportFigure:
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
    rules: int  # how many were checked
    dashboard: ReportFigure | None
    figures: Sequence[ReportFigure]
    sample: ReportFigure | None
    config_json: str
    run: Table | None
    environment: Table | None
    legend: Table
    never_measured: Sequence[Code]
    extras_left_out: int  # extras that only the CSV has
    epochs: Table | None
    core_columns: int  # of that table, that are printed; 0: all of them fit a landscape page
    print_font_pt: float  # at which the printed part of that table fits a landscape page
    epochs_shown: int
    epochs_total: int
    best_epoch: int | None
    missing_epochs: str
    rows_are: str  # "epoch" or "window"
    numbers_are: str  # "epoch" or "step"
    manifest: Table
    run_id: str | None


def build_context(
    history: RunHistory,
    *,
    figures: Mapping[str, ReportFigure],
    samples: Sequence[OutputFile],
    files: Sequence[OutputFile],
) -> ReportContext:
    """Return the content. ``figures`` has the plots by name, in the page's order."""
    rows, summary, run, config = history.rows, history.summary, history.run, history.config
    shown = _thin(rows, summary.best_epoch)
    measured = {name for row in rows for name, value in row.values().items() if value is not None}
    table = [m.name for m in METRICS if m.name in measured]
    extras = [name for name in history.extra_names if name in measured]
    few_extras = _fitting(extras, len(shown))
    columns = [*table, *few_extras]
    core_columns = len(table) if len(columns) > _PRINTED_COLUMNS else 0
    run_name = one_line(str(run.get("run_name") or ""))
    return ReportContext(
        front_matter=front_matter(name=run_name or "DDPM", config=config, results=model_results(history)),
        title=f"Training report: {run_name}" if run_name else "Training report",
        lead=history.worded(_lead(summary, data_set_name(config))),
        summary=key_results_table(history),
        findings=find_findings(history),
        rules=len(RULES),
        dashboard=figures.get("training_dashboard"),
        figures=[figure for name, figure in figures.items() if name != "training_dashboard"],
        sample=_sample(samples),
        config_json=dumps(config, indent=2),
        run=_pairs(_run_facts(history), "Run", _RUN_LABELS),
        environment=_pairs(history.environment, "Environment", {}),
        legend=_legend([*table, *extras], history),
        never_measured=[Code(m.name) for m in METRICS if rows and m.name not in measured],
        extras_left_out=len(extras) - len(few_extras),
        epochs=_epoch_table(shown, columns, history) if rows else None,
        core_columns=core_columns,
        print_font_pt=round(min(_LARGEST_PT, _PAGE_PT / _COLUMN_EM / max(core_columns or len(columns), 1)), 1),
        epochs_shown=len(shown),
        epochs_total=len(rows),
        best_epoch=summary.best_epoch,
        missing_epochs=_missing(history),
        rows_are=history.worded("epoch"),
        numbers_are=history.axis_label.lower(),
        manifest=_manifest([*files, *samples]),
        run_id=history.run_id,
    )


def _fitting(extras: Sequence[str], rows: int) -> list[str]:
    """Return the first extras, those of the pipeline before others, whose columns fit into the report."""
    known = [m.name for m in PIPELINE_METRICS if m.name in extras]
    chosen, text = [], 0
    for name in [*known, *(name for name in extras if name not in known)][:_MAX_EXTRAS]:
        text += rows * max(_CELL, len(axis_label(name)))
        if text > _MAX_EXTRAS_TEXT:
            break
        chosen.append(name)
    return sorted(chosen)


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
    length = count_of(summary.epochs, "epoch")
    if summary.best_loss is None:
        return f"{what}: {length}; no epoch has a finite loss."
    return f"{what}: {length}, lowest mean loss {format_number(summary.best_loss)} at epoch {summary.best_epoch}."


def model_results(history: RunHistory) -> list[Result]:
    """Return the numbers of the model index: the best and last loss, and the last finite value of each extra."""
    summary, losses = history.summary, history.points("loss_mean")
    results: list[Result] = []
    if summary.best_loss is not None and losses:
        lowest, last = f"lowest epoch mean (epoch {summary.best_epoch})", f"last epoch mean (epoch {losses[-1][0]})"
        results.append(("loss", f"Training loss, {history.worded(lowest)}", summary.best_loss))
        results.append(("loss", f"Training loss, {history.worded(last)}", losses[-1][1]))
    results.extend(
        (result.name, f"{metric(result.name).label} ({history.axis_label.lower()} {result.epoch})", result.value)
        for result in extra_results(history)
        if result.value is not None
    )
    return results


def _sample(samples: Sequence[OutputFile]) -> ReportFigure | None:
    if not samples:
        return None
    name = samples[-1].link.rsplit("/", 1)[-1]
    return ReportFigure(title="Generated samples", link=samples[-1].link, caption=f"The latest sample grid, {name}.")


def _pairs(values: Mapping[str, Any], head: str, labels: Mapping[str, str]) -> Table | None:
    leaves = flatten(values)
    rows = [(labels.get(key, key), value) for key, value in leaves.items() if value not in ("", "None")]
    return Table((head, "Value"), rows, "ll") if rows else None


def _run_facts(history: RunHistory) -> dict[str, Any]:
    facts = {key: value for key, value in history.run.items() if key not in _NOT_SHOWN}
    facts[f"resumed_at_{history.axis_label.lower()}s"] = history.format_epochs(history.resumed_at_epochs)
    facts["started"] = format_time(history.run.get("start_time_ms"))
    return facts


def _legend(names: Sequence[str], history: RunHistory) -> Table:
    entries = [metric(name) for name in names]
    rows = [(Code(m.name), history.worded(m.label), m.unit, Prose(history.worded(m.meaning))) for m in entries]
    return Table(("Name", "Column", "Unit", "Meaning"), rows, "llll")


def _epoch_table(rows: Sequence[EpochMetrics], names: Sequence[str], history: RunHistory) -> Table:
    head = [history.worded(axis_label(name)).replace(" (", "\n(") for name in names]
    best_epoch = history.summary.best_epoch
    cells = [[format_number(row.value(name)) for name in names] for row in rows]
    for row, line in zip(rows, cells, strict=True):
        line[0] = f"{BEST_MARK} {line[0]}" if row.epoch == best_epoch else line[0]
    return Table(head, cells, "r" * len(names))


def _missing(history: RunHistory) -> str:
    """Return the epochs between the first and the last that have no row, as ranges; or the ends of such windows."""
    distance = int(history.row_length)
    ranges = [range(a.epoch + distance, b.epoch, distance) for a, b in pairwise(history.rows)]
    return history.format_epochs(epoch for gap in ranges for epoch in gap)


def _manifest(files: Sequence[OutputFile]) -> Table:
    rows = [
        (Code(f.link), f.about, NOT_MEASURED if f.size is None else str(f.size), Code(f.sha256 or NOT_MEASURED))
        for f in files
    ]
    return Table(("File", "Content", "Bytes", "SHA-256"), rows, "llrl")
