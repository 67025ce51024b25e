"""The run page in MLflow sums the run up, and never over somebody else's words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support.unhealthy_runs import Run, healthy_run, sick_run

from mlflow_ddpm import MetricsTracker, publish_run
from mlflow_ddpm.analysis.findings.rules import find_findings
from mlflow_ddpm.analysis.history import load_stored_run, open_store
from mlflow_ddpm.analysis.run_description import DESCRIPTION_MAX, describe_run, result_tags, write_run_description
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.core.run_summary import summarise

NOTE = "mlflow.note.content"


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


def note_of(run: Run) -> str:
    """Return the description of a run."""
    return describe_run(run.history, find_findings(run.history), "abc", is_published=False)


def test_a_run_that_ends_is_summed_up_and_can_be_searched_for(store_uri: str) -> None:
    """Best loss and epoch as plain decimals; the summary, and where plots come from, as the description."""
    run_id = record(store_uri)
    tags = tags_of(store_uri, run_id)

    assert (tags["mlflow_ddpm.best_loss"], tags["mlflow_ddpm.best_epoch"]) == ("0.00001", "1")
    assert (tags["mlflow_ddpm.final_loss"], tags["mlflow_ddpm.epochs"]) == ("0.25", "3")
    assert tags["mlflow_ddpm.findings"] == "none"
    assert "| Best loss (lowest epoch mean) | 1e-05" in tags[NOTE]
    assert f"`mlflow-ddpm publish {run_id}`" in tags[NOTE]
    (found,) = MlflowClient(store_uri).search_runs(["0"], "tags.`mlflow_ddpm.best_epoch` = '1'")
    assert found.info.run_id == run_id


def sum_up(uri: str, run_id: str) -> None:
    """Write the run page as publishing does, without drawing."""
    store = open_store(run_id, uri)
    write_run_description(store, load_stored_run(store), is_published=True)


def test_publishing_says_where_plots_and_report_are(sqlite_uri: str) -> None:
    """The description that the run's end wrote makes way."""
    run_id = record(sqlite_uri)
    publish_run(run_id, tracking_uri=sqlite_uri)
    note = tags_of(sqlite_uri, run_id)[NOTE]

    assert "open `metrics/training_report.html`" in note
    assert "mlflow-ddpm publish" not in note


def test_publishing_again_changes_nothing(store_uri: str) -> None:
    """On every kind of store, what was written is known again to the letter."""
    run_id = record(store_uri)
    sum_up(store_uri, run_id)
    first = tags_of(store_uri, run_id)
    sum_up(store_uri, run_id)

    assert "open `metrics/training_report.html`" in first[NOTE]
    assert tags_of(store_uri, run_id) == first


@pytest.mark.parametrize("when", ["at the start", "after the end"])
def test_a_users_own_description_is_never_overwritten(sqlite_uri: str, when: str) -> None:
    """Not one written before, nor one of ours that was edited; the tags are set all the same."""
    client = MlflowClient(sqlite_uri)
    if when == "at the start":
        run_id = record(sqlite_uri, tags={NOTE: "my own words"})
    else:
        run_id = record(sqlite_uri)
        client.set_tag(run_id, NOTE, tags_of(sqlite_uri, run_id)[NOTE] + "\nmy own words")
    before = tags_of(sqlite_uri, run_id)[NOTE]
    sum_up(sqlite_uri, run_id)
    after = tags_of(sqlite_uri, run_id)

    assert after[NOTE] == before
    assert after[NOTE].endswith("my own words")
    assert after["mlflow_ddpm.epochs"] == "3"


def test_a_page_that_the_store_refuses_keeps_no_run_from_ending(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers have limits of their own."""
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", "false")
    monkeypatch.setattr("mlflow.utils.validation.MAX_TAG_VAL_LENGTH", 300)
    run_id = record(sqlite_uri)

    assert MlflowClient(sqlite_uri).get_run(run_id).info.status == "FINISHED"
    assert "the run's description is not sent to MLflow" in caplog.text


def test_a_resumed_run_is_summed_up_anew(sqlite_uri: str) -> None:
    """Epochs, findings and description follow the run."""
    run_id = record(sqlite_uri)
    with MetricsTracker("out", tracking_uri=sqlite_uri, resume=True) as tracker:
        tracker.start_epoch(3)
        tracker.log_batch(0.125)
        tracker.end_epoch()
    tags = tags_of(sqlite_uri, run_id)

    assert (tags["mlflow_ddpm.epochs"], tags["mlflow_ddpm.findings"]) == ("4", "resumed")
    assert "**Info: Resumed**, epoch 3." in tags[NOTE]


def test_a_run_without_epochs_has_nothing_to_say(sqlite_uri: str) -> None:
    """No description, no results."""
    tags = tags_of(sqlite_uri, record(sqlite_uri, losses=()))

    assert not {key for key in tags if key == NOTE or key.startswith("mlflow_ddpm.best")}


def test_findings_are_in_the_description_and_in_a_tag() -> None:
    """The tag names the rules, the description says what they saw."""
    run = sick_run("divergence", 0)
    findings = find_findings(run.history)

    assert result_tags(summarise(run.rows), findings)["mlflow_ddpm.findings"] == "divergence"
    assert "**Error: Divergence**" in note_of(run)
    assert "**Findings:** none" in note_of(healthy_run(1, 20))


def test_the_description_keeps_to_mlflows_limit_whatever_was_recorded() -> None:
    """A run with a thousand extras of long names shows the first of them, and says so."""
    extra = {f"{'very_' * 40}{i}": i / 3 for i in range(1000)}
    note = note_of(Run([EpochMetrics(epoch=0, loss_mean=1.0, extra=extra)]))

    assert len(note) <= DESCRIPTION_MAX
    assert "more results are in the report" in note
    assert "mlflow-ddpm publish abc" in note


def test_numbers_in_tags_have_no_exponent() -> None:
    """NaN and what was not measured are told apart: a tag that says NaN, and none."""
    tags = result_tags(
        summarise([EpochMetrics(epoch=0, loss_mean=1.5e-9), EpochMetrics(epoch=1, loss_mean=float("nan"))]), []
    )

    assert tags["mlflow_ddpm.best_loss"] == "0.0000000015"
    assert tags["mlflow_ddpm.final_loss"] == "NaN"
    assert "mlflow_ddpm.gpu_peak_mb" not in tags


def test_a_run_without_config_has_no_params(sqlite_uri: str) -> None:
    """Not even one that says that there are none."""
    run_id = record(sqlite_uri)

    assert MlflowClient(sqlite_uri).get_run(run_id).data.params == {}


def test_the_files_of_the_run_are_untouched_by_it(sqlite_uri: str) -> None:
    """The description lives in MLflow alone."""
    record(sqlite_uri)

    assert b"note" not in Path("out/training_metrics.json").read_bytes()
