"""The run's description in MLflow, and its key results as metrics, by which the runs table sorts.

The description (``mlflow.note.content``) is written while it is empty or ours. It is ours if it ends with our mark, a
comment that no page shows, and the text before it is the one that the mark was made for: a text that a user wrote or
edited stays. Earlier versions kept the digest in a tag.
"""

import hashlib
import math
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from mlflow_ddpm.analysis.findings.rules import RULES, Finding, find_findings
from mlflow_ddpm.analysis.key_results import key_results_table, table_results
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.formatting import count_of, format_duration, format_number
from mlflow_ddpm.core.links import artifact_link, artifact_source
from mlflow_ddpm.core.markdown import Markdown, Table, code, escape, table
from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.core.run_summary import Summary
from mlflow_ddpm.storage.layout import ARTIFACT_FOLDER, DASHBOARD_NAME, HTML_NAME, PREVIEW_NAME, SAMPLE_PATTERN
from mlflow_ddpm.storage.mlflow_run import MlflowPage, MlflowRun, clean_tags

DESCRIPTION_MAX = 4800  # characters; the oldest servers take 5000 of a tag, and the mark needs some
FINDINGS_TAG = "mlflow_ddpm.findings"
SUMMARY_PREFIX = "summary/"
_DESCRIPTION = "mlflow.note.content"
_MARK = re.compile(r"\s*<!-- mlflow_ddpm ([0-9a-f]{32}) -->\s*")
_COMPARISON = "<!-- mlflow_ddpm comparison -->"  # before what is known of the runs below this one
_FORMER_DIGEST = "mlflow_ddpm.note_digest"
# Tags of earlier versions whose values are metrics now; they would show the results of an earlier end of the run.
_FORMER_RESULTS = (
    "best_loss",
    "best_epoch",
    "final_loss",
    "epochs",
    "total_time_sec",
    "gpu_peak_mb",
    "nonfinite_batches",
)
_FORMER_TAGS = (_FORMER_DIGEST, *(f"mlflow_ddpm.{name}" for name in _FORMER_RESULTS))
_LENGTHS = ((12, 20), (8, 8), (8, 3))  # lines of results and of findings, tried in order; the report has all
_NAME_MAX = 80  # letters: a description has few


class RunPage(NamedTuple):
    """Where a run's page is, and which of our files are among its artifacts."""

    experiment_id: str
    run_id: str
    artifacts: Collection[str] = ()  # names relative to the artifact folder

    def link(self, name: str) -> str:
        """Return the link that opens an artifact in MLflow's viewer."""
        return artifact_link(self.experiment_id, self.run_id, f"{ARTIFACT_FOLDER}/{name}")

    def picture(self) -> str | None:
        """Return the picture that stands first: the preview, which is made to fit, else the newest sample."""
        parsed = [(SAMPLE_PATTERN.fullmatch(name.rpartition("/")[2]), name) for name in self.artifacts]
        samples = [(int(parts["epoch"]), name) for parts, name in parsed if parts]
        name = PREVIEW_NAME if PREVIEW_NAME in self.artifacts else max(samples, default=(0, None))[1]
        return None if name is None else artifact_source(self.run_id, f"{ARTIFACT_FOLDER}/{name}")


def write_run_description(store: MlflowRun, history: RunHistory, *, artifacts: Collection[str] = ()) -> None:
    """Set the key results of a run that has rows as metrics, its findings as a tag, and its description.

    ``artifacts`` are those of our files that are among its artifacts, as names relative to the artifact folder.
    """
    if not history.rows:
        return
    state = store.read_page()
    findings = find_findings(history)
    description = describe_run(history, findings, RunPage(state.experiment_id, store.run_id, artifacts))
    now = max(int(time.time() * 1000), history.rows[-1].logged_at_ms)
    wanted = summary_metrics(history)
    store.log_points([Point(key, value, now, 0) for key, value in wanted.items() if _differs(value, state, key)])
    _set_tags(store, state.tags, {FINDINGS_TAG: findings_text(findings)}, own=description)


def write_comparison(store: MlflowRun, comparison: str) -> None:
    """Put the comparison of the runs below this one into its description, after what the run itself has there."""
    _set_tags(store, store.read_page().tags, {}, comparison=comparison)


def _set_tags(
    store: MlflowRun, present: Mapping[str, str], tags: Mapping[str, str], *, own: str = "", comparison: str = ""
) -> None:
    """Set tags, and one of the two parts of the description unless a user wrote it; the other part stays."""
    wanted, before = dict(tags), present.get(_DESCRIPTION, "")
    if _is_ours(before, present.get(_FORMER_DIGEST)):
        own_before, _, comparison_before = _MARK.sub("", before).partition(_COMPARISON)
        text = _join(own or own_before, comparison or comparison_before)
        (text,) = clean_tags({_DESCRIPTION: text}).values()
        wanted[_DESCRIPTION] = f"{text.rstrip()}\n\n<!-- mlflow_ddpm {_digest(text)} -->"
    store.set_tags({key: value for key, value in wanted.items() if present.get(key) != value})
    store.delete_tags([name for name in _FORMER_TAGS if name in present])


def _join(own: str, comparison: str) -> str:
    """Return both parts of a description; of a long one the last lines are left out, first those of the comparison."""
    if not comparison.strip():
        return own
    parts = own.strip().splitlines(), comparison.strip().splitlines()
    while True:
        text = "\n".join([*parts[0], "", _COMPARISON, "", *parts[1]]).strip()
        if len(text) <= DESCRIPTION_MAX:
            return text
        parts[len(parts[1]) > 1 or not parts[0]].pop()


def summary_metrics(history: RunHistory) -> dict[str, float]:
    """Return the key results that were measured, by metric name."""
    results = {result.name: result.value for result in table_results(history)}
    results["best_epoch"] = history.summary.best_epoch
    measured = {name: float(value) for name, value in results.items() if value is not None}
    # NaN as in the rows: SQL stores have no infinity.
    return {SUMMARY_PREFIX + name: value if math.isfinite(value) else math.nan for name, value in measured.items()}


def _differs(value: float, state: MlflowPage, key: str) -> bool:
    present = state.metrics.get(key)
    return present is None or (value != present and not (math.isnan(value) and math.isnan(present)))


def findings_text(findings: Sequence[Finding]) -> str:
    """Return the value of the findings' tag: the names of the rules."""
    return ", ".join(finding.rule for finding in findings) or "none"


def describe_run(history: RunHistory, findings: Sequence[Finding], page: RunPage) -> str:
    """Return the description in Markdown, within MLflow's limit.

    The page folds it after some lines, so it begins with the picture and the result.
    """
    results, picture = key_results_table(history), page.picture()
    head = [f"![]({picture})"] if picture else []
    head.append(history.worded(_lead(history.summary)))
    for lines, most in _LENGTHS:
        text = "\n\n".join([*head, _table(results, lines), *_findings(findings, most), _files(page)])
        if len(text) <= DESCRIPTION_MAX:
            break
    return text if len(text) <= DESCRIPTION_MAX else text[: DESCRIPTION_MAX - 1].rpartition("\n")[0]


def _lead(summary: Summary) -> str:
    spent = "" if summary.training_time_sec is None else f" in {format_duration(summary.training_time_sec)} of training"
    epochs = count_of(summary.epochs, "epoch")
    if summary.best_loss is None:
        return f"**{epochs}{spent}**; no epoch has a finite loss."
    best = f"lowest mean loss {format_number(summary.best_loss)} (epoch {summary.best_epoch})"
    return f"**{epochs}{spent}, {best}**; last epoch: {format_number(summary.final_loss)}."


def _table(results: Table, lines: int) -> str:
    left = len(results.rows) - lines
    more = f"\n\n{count_of(left, 'more result is', 'more results are')} in the report." if left > 0 else ""
    rows = [
        [cell if len(cell) <= _NAME_MAX else f"{cell[: _NAME_MAX - 1]}\N{HORIZONTAL ELLIPSIS}" for cell in row]
        for row in results.rows[:lines]
    ]
    return table(results._replace(rows=rows)) + more


def _findings(findings: Sequence[Finding], most: int) -> list[str]:
    if not findings:
        return [f"**Findings:** none ({len(RULES)} rules checked)."]
    lines = [
        Markdown(f"- **{escape(f.label)}: {escape(f.title)}**, {escape(f.where)}. {escape(f.sentence)}")
        for f in findings[:most]
    ]
    left = len(findings) - most
    more = [f"{count_of(left, 'more finding is', 'more findings are')} in the report."] if left > 0 else []
    return ["**Findings**", "\n".join(lines), *more]


def _files(page: RunPage) -> str:
    names = {HTML_NAME: "Report", DASHBOARD_NAME: "Dashboard"}
    links = [f"[{title}]({page.link(name)})" for name, title in names.items() if name in page.artifacts]
    if links:
        return f"{', '.join(links)}; further plots and the data are among the artifacts under `{ARTIFACT_FOLDER}/`."
    return f"Plots and report: {code(f'mlflow-ddpm publish {page.run_id}')} makes them and logs them here."


def _is_ours(description: str, former_digest: str | None) -> bool:
    if not description.strip():
        return True
    mark = _MARK.search(description)
    if mark is None:
        return former_digest == hashlib.sha256(description.encode()).hexdigest()[:32]
    return not description[mark.end() :].strip() and _digest(description[: mark.start()]) == mark[1]


def _digest(text: str) -> str:
    """Return the digest of a text, whatever an editor or a database does to its line ends."""
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]
