"""Findings: silent on what is healthy, each rule on its own sickness, and robust to every kind of history."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.histories import healthy_row
from support.unhealthy_runs import CARD_MB, SICKNESSES, Run, healthy_run, history_of, sick_run

from mlflow_ddpm.analysis.findings.rules import RULES, SEVERITIES, Finding, find_findings
from mlflow_ddpm.cli.run_overview import run_overview
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics
from mlflow_ddpm.publishing.publish import Published
from mlflow_ddpm.storage.csv_file import render_csv

NAN, INF = math.nan, math.inf
FIELDS = [m.name for m in METRICS if m.name not in ("epoch", "nonfinite_batches", "skipped_steps")]


def findings(run: Run) -> list[Finding]:
    """Return what is found in a run."""
    return find_findings(run.history)


def found(rows: Sequence[EpochMetrics], **environment: int) -> dict[str, Finding]:
    """Return what is found in rows, by rule."""
    return {finding.rule: finding for finding in find_findings(history_of(rows, environment))}


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_a_healthy_run_has_no_findings(first: int) -> None:
    """A hundred of them: every schedule and noise, 1 to 1,000 epochs, GPU and CPU, lost epochs, missing columns."""
    alarms = {seed: findings(healthy_run(seed)) for seed in range(first, first + 10)}

    assert {seed: told for seed, told in alarms.items() if told} == {}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", SICKNESSES)
def test_each_rule_fires_on_its_own_sick_run_and_no_other_does(kind: str, seed: int) -> None:
    """The sickness is named, in a sentence with the epochs concerned."""
    told = {finding.rule: finding for finding in findings(sick_run(kind, seed))}
    rule = kind.partition(" ")[0]

    assert set(told) == {rule} | SICKNESSES[kind][1]
    assert told[rule].sentence[-1] in ".?"
    assert told[rule].epochs
    assert list(told[rule].epochs) == sorted(set(told[rule].epochs))


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
    assert found([healthy_row(epoch) for epoch in range(epochs)]) == {}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [None, 0.25])
def test_a_metric_that_was_not_measured_or_stands_still_raises_no_false_alarm(name: str, value: float | None) -> None:
    """Only a loss that stands still is a plateau, and only where nothing was learned from the first epoch on."""
    rows = [replace(healthy_run(17, 60).rows[epoch], **dict[str, Any]({name: value})) for epoch in range(60)]

    assert set(found(rows)) == ({"plateau"} if name == "loss_mean" and value else set())


def test_a_loss_that_is_nan_to_the_end_has_diverged() -> None:
    """From the first epoch without a finite loss; a hole in the middle is none."""
    rows = [healthy_row(epoch) for epoch in range(30)]
    hole = [replace(row, loss_mean=NAN, nonfinite_batches=9) if row.epoch == 12 else row for row in rows]
    end = [replace(row, loss_mean=NAN, nonfinite_batches=9) if row.epoch >= 12 else row for row in rows]

    assert set(found(hole)) == {"nonfinite_batches"}
    assert set(found(end)) == {"nonfinite_batches", "divergence"}
    assert found(end)["divergence"].epochs == tuple(range(12, 30))


def test_a_spike_names_its_epoch_and_its_height() -> None:
    """One epoch of forty, five times the usual loss."""
    rows = healthy_run(17, 40).rows
    rows[30] = replace(rows[30], loss_mean=5 * (rows[29].loss_mean or 0), loss_max=1e3)
    told = found(rows)["loss_spike"]

    assert told.epochs == (30,)
    assert "in 1 epoch, most in epoch 30" in told.sentence


def test_one_wild_batch_is_a_spike_even_if_the_mean_hides_it() -> None:
    """The largest batch loss tells."""
    rows = healthy_run(17, 40).rows
    rows[30] = replace(rows[30], loss_max=50 * (rows[30].loss_max or 0))

    assert found(rows)["loss_spike"].epochs == (30,)


def test_memory_is_judged_by_the_card_that_the_environment_names() -> None:
    """Without it, nobody knows what is much."""
    rows = [replace(healthy_row(epoch), gpu_peak_mb=7800.0) for epoch in range(3)]

    assert found(rows) == {}
    assert found(rows, gpu_memory_mb=24_000) == {}
    assert "7800 of the card's 8192 MiB (95%)" in found(rows, gpu_memory_mb=8192)["memory_near_limit"].sentence


def test_a_machine_that_comes_to_a_stand_has_slowed_down_by_all() -> None:
    """Also where most epochs before it were at a stand."""
    speeds = [1.0, *[0.0] * 5, *[0.0, 0.0, 10.0, 10.0, 10.0] * 2, *[0.0] * 5]
    told = found([EpochMetrics(epoch=epoch, samples_per_sec=speed) for epoch, speed in enumerate(speeds)])

    assert told["throughput_drop"].epochs == (16, 17, 18, 19, 20)
    assert "from 10 to 0 samples/s, by 100%" in told["throughput_drop"].sentence


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


def test_more_epochs_after_a_schedule_that_had_run_out_are_no_anomaly() -> None:
    """`train --resume --epochs N` stretches the cosine: the rate rises from next to nothing."""
    rates = [1e-3, 5e-4, 1e-8, 8e-4, 4e-4, 1e-8]
    rows = [EpochMetrics(epoch=epoch, loss_mean=1.0, lr=lr) for epoch, lr in enumerate(rates)]

    found = find_findings(history_of(rows, resumed=[3]))

    assert [finding.rule for finding in found] == ["resumed"]
