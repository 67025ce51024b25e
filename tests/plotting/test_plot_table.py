"""A plot is one row of the table: everything else follows from it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from support.histories import healthy, only_axes

from mlflow_ddpm import plots
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.plotting import panels, plot_table, sentences
from mlflow_ddpm.plotting.plot_table import PLOTS, Plot, plot_named
from mlflow_ddpm.plotting.series import Quantity


def test_a_new_plot_takes_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files, data, sentence and comparison are made from the row alone."""
    row = Plot(
        "batch_rate", "Batch Rate", "Batches per second.", "Batches per second of each run.",
        sentences.describe_typical("batches_per_sec", "batch rate"), panels.draw_line,
        Quantity("batches_per_sec", "no batch was counted"), ("batches_per_sec",),
    )  # fmt: skip
    for module in (plot_table, plots):
        monkeypatch.setattr(module, "PLOTS", (row,))
    history = RunHistory.from_frame(healthy(5))
    paths = plots.generate_all_plots(history, tmp_path, theme="paper", formats=("png", "svg"))
    with (tmp_path / "batch_rate.csv").open(encoding="utf-8", newline="") as file:
        data = list(csv.reader(file))
    several = only_axes(plots.make_comparison("batch_rate", [("a", history), ("b", history)]))

    assert paths == {"batch_rate": tmp_path / "batch_rate.png"}
    assert data[0] == ["epoch", "batches_per_sec", "mark"]
    assert "median batch rate" in plot_named("batch_rate").describe(history)
    assert "batch_rate: Batches per second." in (tmp_path / "captions.txt").read_text(encoding="utf-8")
    assert (several.get_title(loc="left"), several.get_ylabel()) == ("Batch Rate", "Batch rate (batches/s)")


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_a_row_is_whole(plot: Plot) -> None:
    """A plot draws, describes and lists what it shows; a grid repeats rows of the table."""
    for panel in plot.panels:
        assert panel.draw is not None
        assert panel.columns
        assert panel.quantity.metric
        assert panel in PLOTS
    assert plot.caption.endswith(".")
    assert plot.comparison_caption.endswith(".")
