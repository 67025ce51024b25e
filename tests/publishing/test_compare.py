"""Runs beside each other: from real stores and files to tables, a page and pictures."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient
from support.common import ROOT
from support.histories import NAN, changed, everywhere, healthy, scaled

from mlflow_ddpm import MetricsTracker, compare_runs
from mlflow_ddpm.analysis.frame import frame_from_rows, rows_from_frame
from mlflow_ddpm.analysis.history import load_history
from mlflow_ddpm.cli.main import main
from mlflow_ddpm.core.errors import HistoryError, StoreError, UsageError
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.publishing.compared_runs import ComparedRun, read_runs
from mlflow_ddpm.publishing.comparison_page import page_parts
from mlflow_ddpm.publishing.comparison_tables import ComparedTable, hyperparameters_table, results_table
from mlflow_ddpm.storage.csv_file import render_csv

if TYPE_CHECKING:
    import pandas as pd

PICTURES = {f"{plot.name}.png" for plot in PLOTS}
TABLES = {f"comparison_{kind}.{suffix}" for kind in ("summary", "hyperparameters") for suffix in ("csv", "tex")}


def _record(directory: str, name: str = "", *, epochs: int = 3, **config: object) -> str:
    """Record a run in the default store, and return its id."""
    with MetricsTracker(directory, config=config, run_name=name or None) as tracker:
        for epoch in range(epochs):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0 / (epoch + 1 + len(name)), lr=0.1, batch_size=8)
            tracker.end_epoch(extra={"fid": 10.0 - epoch})
    return str(tracker.run_id)


def _write(directory: str, epochs: int) -> str:
    """Write a run's CSV alone."""
    Path(directory).mkdir()
    Path(directory, "training_metrics.csv").write_bytes(render_csv(rows_from_frame(healthy(epochs))))
    return directory


def _table(path: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(Path(path).read_text(encoding="utf-8"))))


def _hashes(directory: str) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(directory).iterdir()}


@pytest.mark.usefixtures("sqlite_uri")
def test_runs_of_a_store_become_pictures_tables_and_a_page() -> None:
    """By id and by directory alike; numbers are the runs' own, and only what differs is listed."""
    first = _record("a", "small", optim={"lr": 1e-3, "betas": [0.9, 0.99]}, seed=1)
    second = _record("b", "large one", epochs=5, optim={"lr": 2e-3, "betas": [0.9, 0.99]}, seed=1, dropout=0.1)

    made = compare_runs([first, "b"], save_dir="out")

    assert PICTURES | TABLES | {"comparison.md"} == {path.name for path in Path("out").iterdir()}
    assert {path.name for path in made.files} == {path.name for path in Path("out").iterdir()}
    assert [
        ["hyperparameter", "small", "large one"],
        ["optim.lr", "0.001", "0.002"],
        ["dropout", "", "0.1"],
    ] == _table("out/comparison_hyperparameters.csv")
    head, small, large = _table("out/comparison_summary.csv")
    assert head[:6] == ["run", "run_id", "best_loss", "best_epoch", "final_loss", "epochs"]
    assert head[6:8] == ["training_time_sec", "total_time_sec"]
    assert small[:6] == ["small", first, repr(1 / 8), "2", repr(1 / 8), "3"]
    assert large[:6] == ["large one", second, repr(1 / 14), "4", repr(1 / 14), "5"]
    assert [line[head.index("fid")] for line in (small, large)] == ["8.0", "6.0"]
    page = Path("out/comparison.md").read_text(encoding="utf-8")
    assert "Lowest mean loss of an epoch: 0.071429, large one at epoch 4." in page
    assert PICTURES == {name for _, name in re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page)}
    assert str(Path.cwd()) not in page


def test_a_row_of_the_latex_tables_is_a_run_and_the_best_is_bold(sqlite_uri: str) -> None:
    """Tables that a paper can take in as they are, whatever the runs are called."""
    _record("a", "lr_1e-3 & 50 %", lr=1e-3)
    _record("b", "baseline", epochs=8, lr=2e-3)
    runs = read_runs(["a", "b"])
    summary, settings = (table(runs).as_latex().decode() for table in (results_table, hyperparameters_table))

    assert r"\toprule" in summary
    assert re.search(r"^lr\\_1e-3 \\& 50 \\% & \\textbf\{0\.0\d+\} & 2 &", summary, flags=re.MULTILINE)
    assert summary.count(r"\textbf") == 1
    assert r"lr & 0.001 & 0.002 \\" in settings
    assert summary.count(" & ") % 3 == 0


@pytest.mark.slow
def test_same_runs_same_bytes_in_any_process_and_directory(tmp_path: Path) -> None:
    """The day, the place and hash seeds leave no trace, in any format."""
    for place in ("one", "two"):
        Path(place).mkdir()
        os.chdir(tmp_path / place)
        _write("a", 5)
        _write("b", 3)
        command = [sys.executable, "-m", "mlflow_ddpm", "compare", "a", "b", "--format", "png,pdf,svg"]
        environment = {**os.environ, "PYTHONHASHSEED": str(len(place) + len(list(tmp_path.iterdir())))}
        environment["PYTHONPATH"] = str(ROOT)
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
        os.chdir(tmp_path)

    assert len(_hashes("one/comparison")) == 3 * len(PLOTS) + len(TABLES) + 1
    assert _hashes("one/comparison") == _hashes("two/comparison")


def test_whatever_read_history_takes_can_be_compared(sqlite_uri: str) -> None:
    """A run id, a tracker, a directory, a CSV by itself, a JSON and a frame: each with its best name."""
    ids = [_record(f"dir{i}", f"run {i}") for i in range(3)]
    Path("bare").mkdir()
    shutil.copy("dir0/training_metrics.csv", "bare/of_a_friend.csv")
    with MetricsTracker("live", run_name="going on") as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(1.0)
        tracker.end_epoch()
        runs = read_runs(
            [f"runs:/{ids[0]}", tracker, Path("dir1"), "bare/of_a_friend.csv", "dir2/training_metrics.json", healthy(2)]
        )

    assert ["run 0", "going on", "run 1", "of_a_friend", "run 2", "run 6"] == [run.name for run in runs]
    assert [ids[0], tracker.run_id, ids[1], None, ids[2], None] == [run.run_id for run in runs]
    assert [3, 1, 3, 3, 3, 2] == [len(run.history.rows) for run in runs]


def test_runs_of_one_name_are_told_apart(sqlite_uri: str) -> None:
    """By their ids, or else by their place in the list."""
    ids = [_record("x", "twin"), _record("y", "twin")]
    Path("p").mkdir()
    Path("q").mkdir()
    frames = read_runs([_write("p/same", 2), _write("q/same", 2)])

    assert [f"twin ({i[:8]})" for i in ids] == [run.name for run in read_runs(["x", "y"])]
    assert ["same (1)", "same (2)"] == [run.name for run in frames]


def test_a_run_s_params_stand_in_where_its_json_is_not_in_the_store(sqlite_uri: str) -> None:
    """Runs whose artifacts are gone can be compared, too."""
    first, second = _record("a", lr=1.0), _record("b", lr=2.0)
    shutil.rmtree(Path(MlflowClient(sqlite_uri).get_run(first).info.artifact_uri.removeprefix("file://")) / "metrics")

    assert [{"lr": "1.0"}, {"lr": "2.0"}] == [dict(run.config) for run in read_runs([first, second])]


def test_credentials_in_hyperparameters_do_not_reach_the_tables(tmp_path: Path) -> None:
    """Nor where another program has written them into a run's files."""
    for name, token in (("a", "hf_AbCdEfGhIjKlMnOpQrStUvWx"), ("b", "hf_ZyXwVuTsRqPoNmLkJiHgFeDc")):
        document = (
            '{"schema_version": 1, "run": {}, "config": {"token": "%s", "lr": %d}, "environment": {}, "epochs": []}'
        )
        _write(name, 2)
        Path(name, "training_metrics.json").write_text(document % (token, len(token) + ord(name)))
    runs = read_runs(["a", "b"])
    settings = hyperparameters_table(runs)
    page = "\n\n".join(page_parts(runs, _tables(runs), {plot.name: [] for plot in PLOTS}, len(runs)))

    assert not [made for made in (settings.as_csv(), settings.as_latex(), page.encode()) if b"hf_" in made]
    assert ["lr"] == [row[0] for row in settings.data[1:]]


def _tables(runs: list[ComparedRun]) -> dict[str, ComparedTable]:
    return {"comparison_summary": results_table(runs), "comparison_hyperparameters": hyperparameters_table(runs)}


def _compared(name: str, history: pd.DataFrame, **config: str) -> ComparedRun:
    return ComparedRun(name, config, load_history(history))


def test_no_number_of_each_kind_stays_what_it_is() -> None:
    """Not measured is empty, not finite is nan, and a column that no run measured is left out."""
    broken = changed(everywhere(healthy(3), gpu_peak_mb=None), 2, loss_mean=NAN)
    never = everywhere(healthy(3), loss_mean=None, gpu_peak_mb=None)
    table = results_table([_compared("broken", broken), _compared("never", never), _compared("none", healthy(0))])
    head, *rows = csv.reader(io.StringIO(table.as_csv().decode()))
    cells = [dict(zip(head, row, strict=True)) for row in rows]

    assert "gpu_peak_mb" not in head
    assert math.isnan(float(cells[0]["final_loss"]))
    assert [c["best_loss"] for c in cells[1:]] == ["", ""]
    assert [c["epochs"] for c in cells] == ["3", "3", "0"]
    assert [row[1] for row in table.words.rows][1:] == ["\u2013", "\u2013"]
    assert table.words.rows[0][3] == "NaN"


def test_only_runs_whose_hyperparameters_are_known_are_asked() -> None:
    """A CSV by itself does not make all settings differ; what one run lacks, does."""
    runs = [
        _compared("a", healthy(1), lr="1", seed="0"),
        _compared("b", healthy(1), seed="0"),
        _compared("c", healthy(1)),
    ]

    assert [["hyperparameter", "a", "b", "c"], ["lr", "1", "", ""]] == hyperparameters_table(runs).data
    assert [["lr", "1", "\u2013", "\u2013"]] == [list(row) for row in hyperparameters_table(runs).words.rows]


def test_a_run_without_epochs_is_in_the_tables_and_the_page_says_so(sqlite_uri: str) -> None:
    """It may have begun a minute ago."""
    _record("a", "old")
    _record("b", "new", epochs=0)
    runs = read_runs(["a", "b"])
    table = results_table(runs)
    page = "\n\n".join(page_parts(runs, _tables(runs), {plot.name: [] for plot in PLOTS}, len(runs)))

    assert "- new has no rows yet; the pictures do not show it." in page
    assert ["old", "new"] == [row[0] for row in table.data[1:]]


@pytest.mark.parametrize("name", ["a|b", "<script>alert(1)</script>", "x](http://evil)", "`", "*a* _b_", "a\n\n# b"])
def test_no_name_breaks_the_page(name: str) -> None:
    """A run's name is text, in tables and sentences."""
    runs = [_compared(name.replace("\n", " "), healthy(0), **{name: "1"}), _compared("b", healthy(2), **{name: "2"})]
    page = "\n\n".join(page_parts(runs, _tables(runs), {plot.name: [] for plot in PLOTS}, len(runs)))
    rows = [line for line in page.splitlines() if line.startswith("| ")]

    assert "<script>" not in page
    assert not re.search(r"(?<!\\)\]\(http", page)
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 2
    assert [line for line in page.splitlines() if line.startswith("# ")] == ["# Comparison of 2 runs"]


@pytest.mark.slow
def test_vector_pictures_are_shown_or_linked() -> None:
    """SVG shows on the page; of PDF there is a link."""
    runs = [healthy(2), scaled(healthy(3), 2.0)]
    compare_runs(runs, save_dir="svg", formats=("pdf", "svg"), theme="paper", widths=("single", "double"))
    compare_runs(runs, save_dir="pdf", formats="pdf", theme="paper")

    assert "![Loss (Linear)](loss_linear.svg)" in Path("svg/comparison.md").read_text()
    assert "[loss_linear.pdf](loss_linear.pdf)" in Path("pdf/comparison.md").read_text()
    assert {"loss_linear_double.pdf", "training_dashboard.svg"} <= {path.name for path in Path("svg").iterdir()}


def test_mistakes_get_one_clear_line_and_nothing_is_written(sqlite_uri: str) -> None:
    """Too few, too many, twice the same, one unknown, none with an epoch, a directory that holds a run."""
    run_id = _record("a")
    _record("b", epochs=0)
    _record("c", epochs=0)
    many, steps = [healthy(1)] * 15, healthy(3).copy()
    steps.attrs["every_n_steps"] = 1000
    for sources, error, says in (
        (["a"], UsageError, "takes 2 runs or more, got 1"),
        ("a", UsageError, "takes 2 runs or more, got 1"),
        (many, UsageError, "takes 14 runs at most, got 15"),
        (["a", run_id], UsageError, f"a and {run_id} are the same run {run_id}"),
        (["a", "a/training_metrics.csv"], UsageError, "are the same run"),
        (["a", "nowhere"], HistoryError, "no such file or directory: nowhere"),
        (["a", "0123456789abcdef0123456789abcdef"], StoreError, "0123456789abcdef0123456789abcdef"),
        ([healthy(2), steps], UsageError, "run 1 counts epochs, run 2 counts steps"),
        (["b", "c"], HistoryError, "none of the runs has a row yet"),
    ):
        with pytest.raises(error, match=re.escape(says)):
            compare_runs(sources, save_dir="out")
    with pytest.raises(UsageError, match="a holds a run"):
        compare_runs(["a", healthy(2)], save_dir="a")
    with pytest.raises(UsageError, match="theme must be one of dark, paper"):
        compare_runs([healthy(1), healthy(2)], save_dir="out", theme="light")

    assert not Path("out").exists()


@pytest.mark.usefixtures("one_plot")
def test_the_command_says_what_it_made(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a run, and where to look."""
    status = main(["compare", _write("a", 3), _write("b", 40), "--output-dir", "out"])
    lines = capsys.readouterr().out.splitlines()

    assert status == 0
    assert [line.split(",")[0] for line in lines[:2]] == ["a: 3 epochs", "b: 40 epochs"]
    assert "out/comparison.md shows them, with 5 plots and tables in the same folder" in lines[2]


@pytest.mark.slow
def test_runs_may_be_frames_without_any_metric() -> None:
    """A bare frame is a history, too."""
    import pandas as pd

    made = compare_runs([pd.DataFrame({"epoch": [0, 1]}), frame_from_rows([])], save_dir="out")

    assert ["run 1", "run 2"] == [run.name for run in made.runs]
