"""The run's page in MLflow shows its result, and a text that a user wrote there stays."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from support.common import slow
from support.unhealthy_runs import Run, healthy_run, sick_run

from mlflow_ddpm import MetricsTracker, plots, publish_run
from mlflow_ddpm.analysis.findings.rules import find_findings
from mlflow_ddpm.analysis.history import load_stored_run
from mlflow_ddpm.analysis.run_description import (
    DESCRIPTION_MAX,
    RunPage,
    describe_run,
    findings_text,
    summary_metrics,
    write_comparison,
    write_run_description,
)
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.plotting.plot_table import plot_named
from mlflow_ddpm.storage.run_search import open_store

NOTE = "mlflow.note.content"
SAMPLE = "samples/grid_epoch_000002.png"


def record(uri: str, losses: tuple[float, ...] = (0.5, 0.00001, 0.25), **options: Any) -> str:
    """Return the id of a run of one batch an epoch."""
    with MetricsTracker("out", tracking_uri=uri, **options) as tracker:
        for epoch, loss in enumerate(losses):
            tracker.start_epoch(epoch)
            tracker.log_batch(loss)
            tracker.end_epoch()
    return str(tracker.run_id)


def tags_of(uri: str, run_id: str) -> Mapping[str, str]:
    """Return a run's tags."""
    tags: Mapping[str, str] = MlflowClient(uri).get_run(run_id).data.tags
    return tags


def metrics_of(uri: str, run_id: str) -> Mapping[str, float]:
    """Return the last value of each key result, by its name without the folder."""
    metrics: Mapping[str, float] = MlflowClient(uri).get_run(run_id).data.metrics
    return {key.removeprefix("summary/"): value for key, value in metrics.items() if key.startswith("summary/")}


def note_of(run: Run, *artifacts: str) -> str:
    """Return the description of a run."""
    return describe_run(run.history, find_findings(run.history), RunPage("7", "abc", artifacts))


def sum_up(uri: str, run_id: str, *artifacts: str) -> None:
    """Write the run page as publishing does, without drawing."""
    store = open_store(run_id, uri)
    write_run_description(store, load_stored_run(store), artifacts=artifacts)


def test_a_run_that_ends_has_its_key_results_as_metrics(store_uri: str) -> None:
    """Numbers, by which the runs table sorts and which a search compares; the description has them as a table."""
    run_id = record(store_uri)
    results = metrics_of(store_uri, run_id)
    tags = tags_of(store_uri, run_id)

    assert (results["best_loss"], results["best_epoch"], results["final_loss"]) == (0.00001, 1, 0.25)
    assert (results["epochs"], results["nonfinite_batches"]) == (3, 0)
    assert results["training_time_sec"] > 0
    assert "gpu_peak_mb" not in results  # not measured
    assert "| Best loss (lowest epoch mean) | 1e-05" in tags[NOTE]
    assert f"`mlflow-ddpm publish {run_id}`" in tags[NOTE]
    (found,) = MlflowClient(store_uri).search_runs(["0"], "metrics.`summary/best_loss` < 0.001")
    assert found.info.run_id == run_id


def test_a_reader_of_the_page_sees_few_tags_and_no_digest(sqlite_uri: str) -> None:
    """MLflow's page shows every tag but those that begin with ``mlflow.``."""
    run_id = record(sqlite_uri)
    tags = tags_of(sqlite_uri, run_id)
    seen = {key: value for key, value in tags.items() if not key.startswith(("mlflow.", "env."))}

    assert seen == {"mlflow_ddpm.findings": "none", "mlflow_ddpm.output_dir": "out"}


def test_key_results_are_no_rows_of_the_history(store_uri: str) -> None:
    """They belong to the run, not to an epoch."""
    run_id = record(store_uri)
    rows = load_stored_run(open_store(run_id, store_uri)).rows

    assert [row.epoch for row in rows] == [0, 1, 2]
    assert all(not row.extra for row in rows)


@pytest.mark.parametrize("name", ["summary/best_loss", "summary/mine", "summary", "live/loss", "live"])
def test_a_loop_cannot_name_a_metric_as_the_page_does(name: str, sqlite_uri: str) -> None:
    """Such a metric would not be read back from MLflow."""
    with MetricsTracker("out") as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(0.5)
        with pytest.raises(UsageError, match="is taken"):
            tracker.end_epoch(extra={name: 1.0})


def test_publishing_links_to_report_and_dashboard_in_the_artifact_viewer(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The description that the run's end wrote makes way; the links hold on any server and prefix."""
    monkeypatch.setattr(plots, "PLOTS", [plot_named("training_dashboard")])
    run_id = record(sqlite_uri)
    publish_run(run_id, tracking_uri=sqlite_uri)
    note = tags_of(sqlite_uri, run_id)[NOTE]
    viewer = f"#/experiments/0/runs/{run_id}/artifacts/metrics"

    assert note.startswith(f"![](get-artifact?path=metrics/preview.png&run_uuid={run_id})")
    assert f"[Report]({viewer}/training_report.html?workflowType=machine_learning)" in note
    assert f"[Dashboard]({viewer}/training_dashboard.png?workflowType=machine_learning)" in note
    assert "mlflow-ddpm publish" not in note


def test_the_picture_is_the_preview_else_the_newest_sample() -> None:
    """The dashboard alone is too large for a description; the preview shows it where there are no samples."""
    run = healthy_run(1, 20)
    older = "samples/grid_epoch_000001.png"

    assert note_of(run, "training_dashboard.png", SAMPLE, older, "preview.png").startswith(
        "![](get-artifact?path=metrics/preview.png&run_uuid=abc)"
    )
    assert note_of(run, older, SAMPLE, older).startswith(f"![](get-artifact?path=metrics/{SAMPLE}&run_uuid=abc)")
    assert note_of(run, "training_dashboard.png").startswith("**20 epochs")


@pytest.mark.parametrize(("width", "shown"), [slow(84, 1), slow(700, 1), (701, 0)])
def test_an_unpublished_run_shows_its_newest_sample_if_the_page_has_room(
    sqlite_uri: str, width: int, shown: int
) -> None:
    """MLflow shows a picture in a description at its natural size."""
    with MetricsTracker("out", tracking_uri=sqlite_uri) as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(0.5)
        tracker.end_epoch()
        tracker.log_image("grid", np.zeros((8, width), np.uint8), epoch=0)
        tracker.flush()
    note = tags_of(sqlite_uri, str(tracker.run_id))[NOTE]

    assert ("path=metrics/samples/grid_epoch_000000.png" in note) == shown


def test_summing_up_again_changes_nothing(store_uri: str) -> None:
    """On every kind of store, what was written is known again to the letter, and no metric gets a second point."""
    run_id = record(store_uri)
    sum_up(store_uri, run_id)
    first = tags_of(store_uri, run_id)
    sum_up(store_uri, run_id)

    assert tags_of(store_uri, run_id) == first
    assert len(MlflowClient(store_uri).get_metric_history(run_id, "summary/best_loss")) == 1


@pytest.mark.parametrize("when", ["at the start", "after the end", "before our text", "within our text"])
def test_a_users_own_description_is_never_overwritten(sqlite_uri: str, when: str) -> None:
    """Not one written before, nor one of ours that was edited; the results are set all the same."""
    client = MlflowClient(sqlite_uri)
    run_id = record(sqlite_uri, tags={NOTE: "my own words"} if when == "at the start" else {})
    ours = tags_of(sqlite_uri, run_id)[NOTE]
    edited = {
        "at the start": ours,
        "after the end": ours + "\nmy own words",
        "before our text": "my own words\n" + ours,
        "within our text": ours.replace("Findings", "my own words"),
    }[when]
    client.set_tag(run_id, NOTE, edited)
    sum_up(sqlite_uri, run_id, "training_report.html")

    assert "my own words" in edited
    assert tags_of(sqlite_uri, run_id)[NOTE] == edited
    assert metrics_of(sqlite_uri, run_id)["epochs"] == 3


@pytest.mark.parametrize("change", [str.strip, lambda text: text.replace("\n", "\r\n"), lambda text: text + "\n\n"])
def test_line_ends_that_an_editor_changed_are_no_edit(sqlite_uri: str, change: Callable[[str], str]) -> None:
    """A browser's text field sends other line ends than it was given."""
    run_id = record(sqlite_uri)
    MlflowClient(sqlite_uri).set_tag(run_id, NOTE, change(tags_of(sqlite_uri, run_id)[NOTE]))
    sum_up(sqlite_uri, run_id, "training_report.html")

    assert "[Report](" in tags_of(sqlite_uri, run_id)[NOTE]


@pytest.mark.parametrize("edit", ["", " and mine"])
def test_a_description_of_an_earlier_version_is_known_by_the_digest_in_its_tag(sqlite_uri: str, edit: str) -> None:
    """It makes way unless it was edited; tags that are metrics now are removed."""
    client, run_id = MlflowClient(sqlite_uri), record(sqlite_uri)
    text = "**3 epochs**, lowest mean loss 1e-05 (epoch 1)"
    client.set_tag(run_id, "mlflow_ddpm.note_digest", hashlib.sha256(text.encode()).hexdigest()[:32])
    client.set_tag(run_id, "mlflow_ddpm.best_loss", "0.00001")
    client.set_tag(run_id, NOTE, text + edit)
    sum_up(sqlite_uri, run_id)
    tags = tags_of(sqlite_uri, run_id)

    assert ("<!-- mlflow_ddpm " in tags[NOTE]) == (not edit)
    assert not {"mlflow_ddpm.note_digest", "mlflow_ddpm.best_loss"} & set(tags)


def test_a_comparison_follows_the_same_rule(sqlite_uri: str) -> None:
    """It stands in the description of the parent of the runs."""
    run_id = record(sqlite_uri, losses=())
    store = open_store(run_id, sqlite_uri)
    write_comparison(store, "two runs")
    write_comparison(store, "three runs")
    ours = tags_of(sqlite_uri, run_id)[NOTE]
    MlflowClient(sqlite_uri).set_tag(run_id, NOTE, "my own words")
    write_comparison(store, "four runs")

    assert ours.startswith("<!-- mlflow_ddpm comparison -->\n\nthree runs\n")
    assert tags_of(sqlite_uri, run_id)[NOTE] == "my own words"


@pytest.mark.parametrize("lines", [1, 400])
def test_a_parent_with_rows_of_its_own_keeps_both_parts_whichever_is_written_last(sqlite_uri: str, lines: int) -> None:
    """Its own result stands first; a long comparison is cut, so that an old server takes it."""
    run_id = record(sqlite_uri)
    store = open_store(run_id, sqlite_uri)
    notes = []
    for _ in range(2):
        write_comparison(store, "\n".join(["two runs", *["| a | 1 |"] * lines]))
        notes.append(tags_of(sqlite_uri, run_id)[NOTE])
        sum_up(sqlite_uri, run_id, "preview.png")
        notes.append(tags_of(sqlite_uri, run_id)[NOTE])

    assert notes[0].startswith("**")
    assert all(note.startswith("![](get-artifact") for note in notes[1:])
    for note in notes:
        assert note.index("3 epochs") < note.index("two runs\n| a | 1 |")
        assert note.count("two runs") == 1
        assert len(note) <= 5000


def test_a_page_that_the_store_refuses_keeps_no_run_from_ending(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers have limits of their own."""
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    monkeypatch.setattr("mlflow.utils.validation.MAX_TAG_VAL_LENGTH", 300)
    run_id = record(sqlite_uri)

    assert MlflowClient(sqlite_uri).get_run(run_id).info.status == "FINISHED"
    assert "the run's description is not sent to MLflow" in caplog.text


@pytest.mark.parametrize("epoch", [3, 2])
def test_a_resumed_run_is_summed_up_anew(store_uri: str, epoch: int) -> None:
    """Key results, findings and description follow the run, also where it has no more epochs than before."""
    run_id = record(store_uri)
    with MetricsTracker("out", tracking_uri=store_uri, resume=True) as tracker:
        tracker.start_epoch(epoch)
        tracker.log_batch(0.125)
        tracker.end_epoch()
    tags, results = tags_of(store_uri, run_id), metrics_of(store_uri, run_id)

    assert (results["epochs"], results["final_loss"]) == (epoch + 1, 0.125)
    assert tags["mlflow_ddpm.findings"] == "resumed"
    assert f"**Info: Resumed**, epoch {epoch}." in tags[NOTE]


def test_a_run_without_epochs_has_no_description(sqlite_uri: str) -> None:
    """And no results."""
    run_id = record(sqlite_uri, losses=())

    assert NOTE not in tags_of(sqlite_uri, run_id)
    assert metrics_of(sqlite_uri, run_id) == {}


def test_findings_are_in_the_description_and_in_a_tag() -> None:
    """The tag names the rules, the description has their sentences."""
    run = sick_run("divergence", 0)

    assert findings_text(find_findings(run.history)) == "divergence"
    assert "**Error: Divergence**" in note_of(run)
    assert "**Findings:** none" in note_of(healthy_run(1, 20))


def test_the_description_keeps_to_the_oldest_servers_limit_whatever_was_recorded() -> None:
    """A run with a thousand extras of long names shows the first results; the mark has room."""
    extra = {f"{'very_' * 40}{i}": i / 3 for i in range(1000)}
    note = note_of(Run([EpochMetrics(epoch=0, loss_mean=1.0, extra=extra)]))

    assert len(note) <= DESCRIPTION_MAX
    assert "more results are in the report" in note
    assert "mlflow-ddpm publish abc" in note


def test_a_result_that_is_not_finite_is_a_metric_that_is_not_a_number() -> None:
    """What was not measured is no metric."""
    rows = [EpochMetrics(epoch=0, loss_mean=1.5e-9), EpochMetrics(epoch=1, loss_mean=math.inf)]
    results = summary_metrics(RunHistory.create(rows))

    assert results["summary/best_loss"] == 1.5e-9
    assert math.isnan(results["summary/final_loss"])
    assert "summary/gpu_peak_mb" not in results


def test_a_run_without_config_has_no_params(sqlite_uri: str) -> None:
    """Not even one that says that there are none."""
    run_id = record(sqlite_uri)

    assert MlflowClient(sqlite_uri).get_run(run_id).data.params == {}


def test_the_files_of_the_run_are_untouched_by_it(sqlite_uri: str) -> None:
    """The description lives in MLflow alone."""
    record(sqlite_uri)

    assert b"note" not in Path("out/training_metrics.json").read_bytes()
