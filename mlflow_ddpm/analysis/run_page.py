"""The run page in MLflow: its description, and key results as tags that one can search by.

The description (``mlflow.note.content``) is ours only as long as nobody else has written it: what stands there is
replaced if it is empty, or to the letter what was written last, which a digest in a tag tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from mlflow_ddpm.analysis.findings.evidence import epochs_in_words
from mlflow_ddpm.analysis.findings.rules import RULES, Finding, find_findings
from mlflow_ddpm.analysis.report_summary import summary_table
from mlflow_ddpm.core.formatting import format_duration, format_number
from mlflow_ddpm.core.markdown import Markdown, Table, code, escape, table
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import Summary, summarise
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, HTML_NAME
from mlflow_ddpm.storage.mlflow_run import MlflowRun, clean_tags

__all__ = ["NOTE_MAX", "result_tags", "run_note", "write_run_description"]

NOTE_MAX = 8000  # characters; MLflow's own limit of a tag
_NOTE, _DIGEST = "mlflow.note.content", "mlflow_ddpm.note_digest"
_PREFIX = "mlflow_ddpm."
_RESULTS = (
    *("best_loss", "best_epoch", "final_loss", "epochs", "total_time_sec", "gpu_peak_mb"),
    "nonfinite_batches",
)


def write_run_description(
    store: MlflowRun,
    rows: Sequence[EpochMetrics],
    *,
    environment: Mapping[str, Any],
    resumed_at_epochs: Sequence[int],
    is_published: bool,
) -> None:
    """Set the result tags of a run that has epochs, and its description unless somebody else wrote one.

    Raises as every method of :class:`mlflow_ddpm.storage.mlflow_run.MlflowRun` does.
    """
    if not rows:
        return
    summary = summarise(rows)
    findings = find_findings(rows, environment=environment, resumed_at_epochs=resumed_at_epochs)
    told = store.tags()
    tags = result_tags(summary, findings)
    if _is_ours(told.get(_NOTE, ""), told.get(_DIGEST)):
        (note,) = clean_tags(
            {_NOTE: run_note(rows, summary, findings, store.run_id, is_published=is_published)}
        ).values()
        tags |= {_NOTE: note, _DIGEST: _digest(note)}
    store.set_tags({key: value for key, value in tags.items() if told.get(key) != value})


def result_tags(summary: Summary, findings: Sequence[Finding]) -> dict[str, str]:
    """Return key results as plain decimal numbers, what was not measured left out, and the findings' rules."""
    told = summary.as_dict()
    numbers = {f"{_PREFIX}{name}": _decimal(value) for name in _RESULTS if (value := told[name]) is not None}
    return {**numbers, f"{_PREFIX}findings": ", ".join(finding.rule for finding in findings) or "none"}


def run_note(
    rows: Sequence[EpochMetrics], summary: Summary, findings: Sequence[Finding], run_id: str, *, is_published: bool
) -> str:
    """Return the description in Markdown, within MLflow's limit.

    The page folds it after some lines, so that what matters comes first: the result, findings, where the rest is.
    """
    whole = summary_table(rows)
    head = [_lead(summary), *_findings(findings), _where(run_id, is_published=is_published)]
    for lines in (len(whole.rows), 40, 20, 10, 7):  # a run with hundreds of extras shows the first of them
        note = "\n\n".join([*head, _table(whole, lines)])
        if len(note) <= NOTE_MAX:
            return note
    return note[: NOTE_MAX - 1].rpartition("\n")[0]


def _lead(summary: Summary) -> str:
    time = "" if summary.total_time_sec is None else f" in {format_duration(summary.total_time_sec)}"
    if summary.best_loss is None:
        return f"**{epochs_in_words(summary.epochs)}{time}**, in none of which a finite loss was measured."
    best = f"lowest mean loss {format_number(summary.best_loss)} (epoch {summary.best_epoch})"
    return (
        f"**{epochs_in_words(summary.epochs)}{time}, {best}**; the last epoch's is {format_number(summary.final_loss)}."
    )


def _table(whole: Table, lines: int) -> str:
    left = len(whole.rows) - lines
    more = f"\n\n{left} more results are in the report." if left > 0 else ""
    return table(whole._replace(rows=whole.rows[:lines])) + more


def _findings(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return [f"**Findings:** none; {len(RULES)} rules were silent."]
    lines = [
        Markdown(f"- **{escape(f.severity.capitalize())}: {escape(f.title)}**, {escape(f.where)}. {escape(f.sentence)}")
        for f in findings
    ]
    return ["**Findings**", "\n".join(lines)]


def _where(run_id: str, *, is_published: bool) -> str:
    if is_published:
        return (
            f"Plots and report are among the artifacts: open `{ARTIFACT_FOLDER}/{HTML_NAME}`, or "
            f"`{ARTIFACT_FOLDER}/training_dashboard.png` for all at one look."
        )
    return f"Plots and report: {code(f'mlflow-ddpm publish {run_id}')} makes them, and logs them here."


def _is_ours(note: str, digest: str | None) -> bool:
    return not note.strip() or _digest(note) == digest


def _digest(note: str) -> str:
    return hashlib.sha256(note.encode()).hexdigest()[:32]


def _decimal(value: float) -> str:
    """Return every digit of a number, without an exponent."""
    return format(Decimal(repr(value)), "f")
