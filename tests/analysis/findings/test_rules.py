"""Findings: silent on what is healthy, each rule on its own sickness, and robust to every kind of history."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.histories import healthy_row
from support.unhealthy_runs import CARD_MB, SICKNESSES, Run, findings_by_rule, healthy_run, history_of, sick_run

from mlflow_ddpm.analysis.findings.rules import RULES, SEVERITIES, Finding, find_findings
from mlflow_ddpm.cli.run_overview import run_overview
from mlflow_ddpm.core.metrics import METRICS
from mlflow_ddpm.publishing.publish import Published
from mlflow_ddpm.storage.csv_file import render_csv

NAN, INF = math.nan, math.inf
FIELDS = [m.name for m in METRICS if m.name not in ("epoch", "nonfinite_batches", "skipped_steps")]


def findings(run: Run) -> list[Finding]:
    """Return what is found in a run."""
    return find_findings(run.history)


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_a_healthy_run_has_no_findings(first: int) -> None:
    """A hundred of them: every schedule and noise, 1 to 1,000 epochs, GPU and CPU, lost epochs, missing columns."""
    alarms = {seed: findings(healthy_run(seed)) for seed in range(first, first + 10)}

    assert {seed: told for seed, told in alarms.items() if told} == {}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", SICKNESSES)
def test_each_rule_fires_on_its_own_sick_run_and_no_other_does(kind: str, seed: int) -> None:
    """The sickness is named, in a sentence with the epochs concerned."""
    hits = {finding.rule: finding for finding in findings(sick_run(kind, seed))}
    rule = kind.partition(" ")[0]

    assert set(hits) == {rule} | SICKNESSES[kind][1]
    assert hits[rule].sentence[-1] in ".?"
    assert hits[rule].epochs
    assert list(hits[rule].epochs) == sorted(set(hits[rule].epochs))


def test_every_rule_has_a_name_a_threshold_and_a_sick_run() -> None:
    """The table is what README and report show."""
    assert {kind.partition(" ")[0] for kind in SICKNESSES} == {rule.name for rule in RULES}
    assert all(rule.threshold and rule.title and rule.severity in SEVERITIES for rule in RULES)


def test_the_gravest_finding_comes_first() -> None:
    """Whoever reads one line reads the right one."""
    run = sick_run("divergence", 0)
    run.resumed = [3]
    run.change(5, gpu_peak_mb=0.99 * CARD_MB)

    assert [finding.severity for finding in findings(run)] == ["error", "warning", "info"]


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_a_run_of_hardly_any_epochs_is_not_judged(epochs: int) -> None:
    """What a course would tell needs one."""
    assert findings_by_rule([healthy_row(epoch) for epoch in range(epochs)]) == {}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [None, 0.25])
def test_a_metric_that_was_not_measured_or_stands_still_raises_no_false_alarm(name: str, value: float | None) -> None:
    """Only a loss that stands still is a plateau, and only where nothing was learned from the first epoch on."""
    rows = [replace(healthy_run(17, 60).rows[epoch], **dict[str, Any]({name: value})) for epoch in range(60)]

    assert set(findings_by_rule(rows)) == ({"plateau"} if name == "loss_mean" and value else set())


def test_the_command_line_closes_with_the_findings(tmp_path: Path) -> None:
    """A line each, the gravest first; the report says more."""
    (tmp_path / "training_metrics.csv").write_bytes(render_csv(sick_run("divergence", 3).rows))
    lines = run_overview(Published(None, tmp_path, [], uploaded=False), None).splitlines()

    assert lines[1].startswith("error   Divergence, epochs ")


VALUES = st.none() | st.sampled_from([0.0, -1.0, NAN, INF, -INF, 5e-324, 1.7e308, -1.7e308]) | st.floats()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(VALUES, min_size=1, max_size=6), st.sampled_from([0, 1, 2, 3, 7, 25, 60]))
def test_no_history_is_too_strange(seed: int, values: list[float | None], epochs: int) -> None:
    """Extreme values, holes and missing columns end in findings or in none, never in an error."""
    dice = random.Random(seed)  # noqa: S311 - a test's dice
    rows = [
        replace(
            healthy_row(epoch * dice.choice((1, 1, 3)) + 200 * epoch),
            **{name: dice.choice(values) for name in FIELDS},  # type: ignore[arg-type]
        )
        for epoch in range(epochs)
    ]
    resumed = [row.epoch for row in rows if dice.random() < 0.1]

    for finding in find_findings(history_of(rows, {"gpu_memory_mb": 8000}, resumed)):
        assert set(finding.epochs) <= {row.epoch for row in rows}
