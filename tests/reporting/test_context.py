"""The report's content follows from the history alone, every number with its unit and epoch."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics
from mlflow_ddpm.reporting.context import MAX_EPOCH_ROWS, ReportContext, build_context
from mlflow_ddpm.reporting.manifest import OutputFile

DASH = "\N{EN DASH}"


def build(rows: list[EpochMetrics], **parts: Any) -> ReportContext:
    """Return the context of these rows; parts not given are empty."""
    facts = {name: parts.pop(name, {}) for name in ("config", "run", "environment")}
    empty: dict[str, Any] = {"figures": {}, "samples": [], "files": []}
    return build_context(RunHistory(rows=tuple(rows), **facts), **(empty | parts))


def row(epoch: int, loss: float = 1.0, **values: Any) -> EpochMetrics:
    """Return a row with a loss and what else is given."""
    return EpochMetrics(epoch=epoch, loss_mean=loss, **values)


def test_insights_are_no_results() -> None:
    """The summary and the model index state results, judgements of samples first; the table per epoch has all."""
    extra = {"fid": 12.5, "grad_part/middle": 0.5, "time/data_sec": 3.0, "sample/frechet": 0.25}
    context = build([row(0, extra=extra)])
    (evaluation,) = context.front_matter["model-index"][0]["results"]

    assert [m["type"] for m in evaluation["metrics"]] == ["loss", "loss", "sample/frechet", "fid"]
    assert [line[0] for line in context.summary.rows][-2:] == ["Sample Fréchet distance, guidance 2, last", "fid, last"]
    assert epoch_column(context, "Data time\n(s)") == ["3"]


def epoch_column(context: ReportContext, head: str) -> list[str]:
    """Return the cells of one column of the per-epoch table."""
    assert context.epochs
    return [line[list(context.epochs.head).index(head)] for line in context.epochs.rows]


def test_the_summary_gives_each_result_with_unit_and_epoch() -> None:
    """Best and final loss differ; extras show their last value and range."""
    rows = [
        row(0, gpu_peak_mb=512.25, samples_per_sec=1000.0, nonfinite_batches=0, extra={"fid": 30.0}),
        row(1, 0.125, samples_per_sec=1002.0, nonfinite_batches=2),
        row(2, 1 / 3, gpu_peak_mb=500.0, cumulative_time_sec=3723.4, extra={"fid": 12.5, "nan": math.nan}),
    ]

    assert list(build(rows).summary.rows) == [
        ("Best loss (lowest epoch mean)", "0.125", "1"),
        ("Final loss (epoch mean)", "0.33333", "2"),
        ("Total epochs", "3", "0 to 2"),
        ("Training time (sum of epochs)", "1 h 02 min 03 s (3723.4 s)", ""),
        ("Total wall time", "not measured", ""),
        ("Median throughput", "1001 samples/s", ""),
        ("GPU memory peak", "512.25 MiB", "0"),
        ("Non-finite batches", "2", "1"),
        ("fid, last", "12.5 (range 12.5 to 30)", "2"),
        ("nan, last", "no finite value", ""),
    ]


def test_the_summary_says_what_was_not_measured() -> None:
    """A zero would be a measurement."""
    values = {line[0]: line[1] for line in build([EpochMetrics(epoch=4)]).summary.rows}

    assert values.pop("Total epochs") == "1"
    assert set(values.values()) == {"not measured"}


def test_not_measured_and_not_finite_stay_apart() -> None:
    """A dash, NaN and infinities are three different cells; columns never measured are named, not shown empty."""
    context = build([row(0, grad_norm=math.inf), row(1, math.nan, lr=0.001, grad_norm=-math.inf)])

    assert epoch_column(context, "Learning rate") == [DASH, "0.001"]
    assert epoch_column(context, "Loss\n(mean)") == ["1", "NaN"]
    assert epoch_column(context, "Gradient norm") == ["Inf", "-Inf"]
    assert context.epochs
    assert len(context.epochs.head) == 4
    assert {"loss_std", "gpu_peak_mb"} < set(context.never_measured)


def test_every_measured_metric_has_a_column_and_a_meaning() -> None:
    """Columns and legend are derived from the one table, extras included."""
    values = {m.name: 1 if m.integral else 1.0 for m in METRICS}
    context = build([EpochMetrics(**values, extra={"eval/fid": 2.0})])  # type: ignore[arg-type]

    assert [line[0] for line in context.legend.rows] == [*(m.name for m in METRICS), "eval/fid"]
    assert context.epochs
    assert len(context.legend.rows) == len(context.epochs.head) == len(context.epochs.rows[0])
    assert {"GPU peak\n(MiB)", "Throughput\n(samples/s)", "eval/fid"} <= set(context.epochs.head)
    assert context.never_measured == []


def test_the_best_epoch_is_marked_and_missing_epochs_are_named() -> None:
    """Nothing invents a row for an epoch that has none."""
    context = build([row(0), row(1), row(5, 0.01), row(7)])

    assert epoch_column(context, "Epoch") == ["0", "1", "★ 5", "7"]
    assert context.missing_epochs == f"2{DASH}4, 6"


def test_a_thousand_epochs_are_shown_whole() -> None:
    """The limit is the last number that is not thinned."""
    context = build([row(i) for i in range(MAX_EPOCH_ROWS)])

    assert context.epochs
    assert len(context.epochs.rows) == context.epochs_shown == context.epochs_total == 1000


def test_more_epochs_are_thinned_evenly() -> None:
    """The first, the last and the best epoch stay, and no more than a thousand rows."""
    context = build([row(i, 0.0 if i == 1234 else 1.0) for i in range(2500)])
    shown = [int(cell.removeprefix("★ ")) for cell in epoch_column(context, "Epoch")]

    assert {0, 1234, 2499} <= set(shown)
    assert len(shown) == context.epochs_shown <= MAX_EPOCH_ROWS < context.epochs_total == 2500
    assert max(b - a for a, b in pairwise(shown)) == 3


def test_no_other_table_is_capped() -> None:
    """Results, the model index, what the metrics mean, files: all of 70 extras and 400 samples."""
    extra = {f"extra_{i:02}": 1.0 for i in range(70)}
    context = build([row(0, extra=extra)], samples=[OutputFile(link=f"{i}.png", about="") for i in range(400)])
    (evaluation,) = context.front_matter["model-index"][0]["results"]

    assert {f"{name}, last" for name in extra} <= {line[0] for line in context.summary.rows}
    assert set(extra) <= {str(line[0]) for line in context.legend.rows}
    assert set(extra) <= {m["type"] for m in evaluation["metrics"]}
    assert len(context.manifest.rows) == 400
    assert context.extras_left_out == 10


def test_run_and_environment_are_flat_tables_without_empty_values() -> None:
    """Nested values get dotted names, times their zone; an id that may stand in a command is kept for it."""
    run = {"run_id": "3f0a", "experiment_name": "ddpm", "experiment_id": None, "start_time_ms": 1_700_000_000_999}
    context = build([row(0)], run=run, environment={"torch": "2.13", "device": {"name": "cpu"}})

    assert context.run
    assert context.environment
    assert list(context.run.rows) == [
        ("Run id", "3f0a"),
        ("Experiment", "ddpm"),
        ("Started", "2023-11-14 22:13:20 UTC"),
    ]
    assert list(context.environment.rows) == [("torch", "2.13"), ("device.name", "cpu")]
    assert context.run_id == "3f0a"
    assert build([], run={"run_id": "x; rm"}).run_id is None


def test_a_report_made_before_the_end_names_its_time_as_what_it_is() -> None:
    """Such as one made in the `with` block; how a run came to be ours is no fact for readers."""
    run = {"start_time_ms": 1_699_999_990_000, "owned": True, "every_n_steps": 10, "end_time_ms": None}
    rows = [replace(row(0), logged_at_ms=1_700_000_000_000)]
    going, ended = build(rows, run=run), build(rows, run=run | {"end_time_ms": 1_700_000_500_000})
    (label, *_), (other, *_) = (next(r for r in c.summary.rows if "wall" in str(r[0]).lower()) for c in (going, ended))

    assert (label, other) == ("Wall time so far (the run has not ended)", "Total wall time")
    assert going.run
    assert [fact for fact, _ in going.run.rows] == ["Steps per row", "Started"]


def test_a_run_that_has_ended_gives_the_report_it_gave_while_running() -> None:
    """A run publishes itself before it ends; publishing it again changes nothing."""
    running = {"run_id": "3f0a", "status": "RUNNING", "end_time_ms": None}

    assert build([row(0)], run=running) == build([row(0)], run=running | {"status": "FINISHED", "end_time_ms": 5})
