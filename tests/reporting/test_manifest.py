"""The report names the files that are there, with size and checksum, and embeds no picture that is not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.reporting.manifest import OutputFile, find_plot_files, output_files, sample_files

TITLES = {plot.name: plot.title for plot in PLOTS}
DATA_FILES = ["training_metrics.csv", "training_metrics.json", "training_report.md", "training_report.html"]


def test_the_manifest_is_the_specified_tree_whether_the_files_are_there_or_not(tmp_path: Path) -> None:
    """Four data files and eleven plots, by their specified names."""
    files = output_files(tmp_path, TITLES, {})

    assert [f.link for f in files] == [*DATA_FILES, *(f"{plot.name}.png" for plot in PLOTS)]
    assert {(f.size, f.sha256) for f in files} == {(None, None)}


def test_present_files_have_size_and_checksum_unless_they_still_change(tmp_path: Path) -> None:
    """The JSON changes while a run goes on; the report cannot hold its own checksum."""
    for name in [*DATA_FILES, "loss_log.png"]:
        (tmp_path / name).write_bytes(b"content")
    found = {f.link: (f.size, f.sha256) for f in output_files(tmp_path, TITLES, {}) if f.size is not None}

    expected = (7, hashlib.sha256(b"content").hexdigest())
    assert found == {"training_metrics.csv": expected, "loss_log.png": expected}


def test_samples_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Epoch 9 is before epoch 10, with or without leading zeros."""
    (tmp_path / "samples").mkdir()
    for name in ("epoch_10.png", "epoch_9.png", "epoch_0008.png", "notes.txt"):
        (tmp_path / "samples" / name).write_bytes(b"x")

    expected = ["samples/epoch_0008.png", "samples/epoch_9.png", "samples/epoch_10.png"]
    assert [f.link for f in sample_files(tmp_path)] == expected
    assert sample_files(tmp_path / "elsewhere") == []


def test_pictures_are_those_named_or_else_those_found(tmp_path: Path) -> None:
    """In the table's order, whatever the order they were given in."""
    log, linear = tmp_path / "loss_log.png", tmp_path / "loss_linear.png"
    log.touch()
    linear.touch()

    assert list(find_plot_files(TITLES, tmp_path, None)) == ["loss_linear", "loss_log"]
    assert list(find_plot_files(TITLES, tmp_path, {"loss_log": log, "loss_linear": linear})) == [
        "loss_linear",
        "loss_log",
    ]
    assert find_plot_files(TITLES, tmp_path, {}) == {}


@pytest.mark.parametrize(
    ("paths", "message"),
    [({"loss": Path("loss.png")}, "'loss'.*no plot"), ({"loss_log": Path("gone.png")}, "gone.png.*draw the plots")],
)
def test_a_picture_that_is_not_there_is_the_callers_mistake(
    tmp_path: Path, paths: dict[str, Path], message: str
) -> None:
    """The message names the plot and what to do."""
    with pytest.raises(UsageError, match=message):
        find_plot_files(TITLES, tmp_path, paths)


def test_plots_elsewhere_are_linked_from_the_reports_place(tmp_path: Path) -> None:
    """Links are relative to the report."""
    path = tmp_path / "plots" / "loss_log.png"
    path.parent.mkdir()
    path.write_bytes(b"x")
    files = output_files(tmp_path / "report", TITLES, {"loss_log": path})

    expected = OutputFile(
        link="../plots/loss_log.png", about="Plot: Loss (Log Scale)", size=1, sha256=hashlib.sha256(b"x").hexdigest()
    )
    assert expected in files
