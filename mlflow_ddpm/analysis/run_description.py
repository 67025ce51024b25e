"""The run's description in MLflow, and its key results as tags to search by.

The description (``mlflow.note.content``) is replaced only while it is empty or exactly what this package wrote last,
which a digest in a tag shows: a user's own text stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from decimal import Decimal

from mlflow_ddpm.analysis.findings.rules import RULES, Finding, find_findings
from mlflow_ddpm.analysis.key_results import key_results_table
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.formatting import count_of, format_duration, format_number
from mlflow_ddpm.core.markdown import Markdown, Table, code, escape, table
from mlflow_ddpm.core.run_summary import Summary
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, HTML_NAME
from mlflow_ddpm.storage.mlflow_run import MlflowRun, clean_tags

__all__ = ["DESCRIPTION_MAX", "describe_run", "result_tags", "write_description", "write_run_description"]

DESCRIPTION_MAX = 8000  # characters; MLflow's own limit of a tag
_DESCRIPTION, _DIGEST = "mlflow.note.content", "mlflow_ddpm.note_digest"
_PREFIX = "mlflow_ddpm."
_RESULTS = (
    *("best_loss", "best_epoch", "final_loss", "epochs", "training_time_sec", "total_time_sec", "gpu_peak_mb"),
    "nonfinite_batches",
)


def write_run_description(store: MlflowRun, history: RunHistory, *, is_published: bool) -> None:
    """Set the result tags of a run that has epochs, and its description unless a user wrote one.

    Raises as every method of :class:`mlflow_ddpm.storage.mlflow_run.MlflowRun` does.
    """
    if not history.rows:
        return
    findings = find_findings(history)
    description = describe_run(history, findings, store.run_id, is_published=is_published)
    write_description(store, description, result_tags(history.summary, findings))


def write_description(store: MlflowRun, description: str, tags: dict[str, str] | None = None) -> None:
    """Set tags, and the description unless a user wrote one. Raises as :func:`write_run_description`."""
    present, wanted = store.tags(), dict(tags or {})
    if _is_ours(present.get(_DESCRIPTION, ""), present.get(_DIGEST)):
        (text,) = clean_tags({_DESCRIPTION: description}).values()
        wanted |= {_DESCRIPTION: text, _DIGEST: _digest(text)}
    store.set_tags({key: value for key, value in wanted.items() if present.get(key) != value})


def result_tags(summary: Summary, findings: Sequence[Finding]) -> dict[str, str]:
    """Return key results as plain decimal numbers, those not measured left out, and the findings' rules."""
    values = summary.as_dict()
    numbers = {f"{_PREFIX}{name}": _decimal(value) for name in _RESULTS if (value := values[name]) is not None}
    return {**numbers, f"{_PREFIX}findings": ", ".join(finding.rule for finding in findings) or "none"}


def describe_run(history: RunHistory, findings: Sequence[Finding], run_id: str, *, is_published: bool) -> str:
    """Return the description in Markdown, within MLflow's limit.

    The page folds it after some lines, so the result and the findings come first, then where the rest is.
    """
    results = key_results_table(history)
    head = [_lead(history.summary), *_findings(findings), _files(run_id, is_published=is_published)]
    for lines in (len(results.rows), 40, 20, 10, 7):  # a run with hundreds of extras shows the first of them
        text = "\n\n".join([*head, _table(results, lines)])
        if len(text) <= DESCRIPTION_MAX:
            return text
    return text[: DESCRIPTION_MAX - 1].rpartition("\n")[0]


def _lead(summary: Summary) -> str:
    time = "" if summary.training_time_sec is None else f" in {format_duration(summary.training_time_sec)} of training"
    epochs = count_of(summary.epochs, "epoch")
    if summary.best_loss is None:
        return f"**{epochs}{time}**; no epoch has a finite loss."
    best = f"lowest mean loss {format_number(summary.best_loss)} (epoch {summary.best_epoch})"
    return f"**{epochs}{time}, {best}**; the last epoch's is {format_number(summary.final_loss)}."


def _table(results: Table, lines: int) -> str:
    left = len(results.rows) - lines
    more = f"\n\n{left} more results are in the report." if left > 0 else ""
    return table(results._replace(rows=results.rows[:lines])) + more


def _findings(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return [f"**Findings:** none ({len(RULES)} rules checked)."]
    lines = [
        Markdown(f"- **{escape(f.label)}: {escape(f.title)}**, {escape(f.where)}. {escape(f.sentence)}")
        for f in findings
    ]
    return ["**Findings**", "\n".join(lines)]


def _files(run_id: str, *, is_published: bool) -> str:
    if is_published:
        return (
            f"Plots and report are among the artifacts: open `{ARTIFACT_FOLDER}/{HTML_NAME}`, or "
            f"`{ARTIFACT_FOLDER}/training_dashboard.png` for all at one look."
        )
    return f"Plots and report: {code(f'mlflow-ddpm publish {run_id}')} makes them and logs them here."


def _is_ours(description: str, digest: str | None) -> bool:
    return not description.strip() or _digest(description) == digest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _decimal(value: float) -> str:
    """Return every digit of a number, without an exponent."""
    return format(Decimal(repr(value)), "f")
