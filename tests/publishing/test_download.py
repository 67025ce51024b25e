"""Figures for papers among a run's artifacts, and everything published brought back from the store."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_ddpm import MetricsTracker, generate_all_plots, publish_run
from mlflow_ddpm.analysis.history import load_history
from mlflow_ddpm.analysis.key_results import key_results_table
from mlflow_ddpm.cli.main import main
from mlflow_ddpm.core.errors import HistoryError, StoreError, UsageError
from mlflow_ddpm.plots import FigureSet
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.publishing.download import download_run
from mlflow_ddpm.reporting.paper_tables import write_key_results

PAPER = FigureSet("paper", ("pdf",))
NAMES = [plot.name for plot in PLOTS]
FEW = (NAMES[0], NAMES[-1])  # of the fixture few_plots


def _record(uri: str | None) -> MetricsTracker:
    with MetricsTracker("out", tracking_uri=uri) as tracker:
        for epoch in range(2):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0 / (epoch + 1), lr=0.1, batch_size=8)
            tracker.end_epoch(extra={"val_fid/a_b": 1.5e-7})
    return tracker


def _hashes(directory: str | Path) -> dict[str, str]:
    """The preview is made for the run's page: it lies among the artifacts alone."""
    files = [path for path in Path(directory).rglob("*") if path.is_file() and path.name != "preview.png"]
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.usefixtures("few_plots")
def test_what_was_published_comes_back_byte_for_byte(store_uri: str) -> None:
    """The specified tree, the figures for a paper in their folder, and nothing else."""
    run_id = str(_record(store_uri).run_id)
    published = publish_run(run_id, output_dir="made", tracking_uri=store_uri, figures=PAPER)

    fetched = download_run(f"runs:/{run_id}", "new/folder", tracking_uri=store_uri)

    assert _hashes("made") == _hashes("new/folder")
    made = {Path("new/folder", path.relative_to("made")) for path in published.files}
    assert fetched.files == sorted(made | {Path("new/folder/preview.png")})
    assert {path.name for path in fetched.files if path.parent.name == "paper"} == {
        *(f"{name}.{suffix}" for name in FEW for suffix in ("pdf", "csv")),
        *("captions.txt", "training_summary.csv", "training_summary.tex"),
    }


@pytest.mark.slow
def test_the_report_keeps_its_pngs_and_download_tells_what_it_fetched(
    sqlite_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--format pdf`` adds a folder; every picture that the report embeds is there and can be shown.

    ``download`` says how many files it brought, how large, of which kinds, and where they are.
    """
    run_id = str(_record(sqlite_uri).run_id)

    assert main(["publish", run_id, "--output-dir", "made", "--theme", "paper", "--format", "pdf"]) == 0

    assert "made/paper: 35 files" in capsys.readouterr().out
    report = Path("made/training_report.md").read_text(encoding="utf-8")
    embedded = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", report)
    assert {f"{name}.png" for name in NAMES} <= set(embedded)
    assert all(Path("made", link).exists() for link in embedded)
    assert Path("made/paper/loss_linear_double.pdf").exists()

    assert main(["download", run_id, "got"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"\d+ files \(\d\.\d MiB\) of run {run_id} are in got", lines[0])
    assert lines[1].startswith("  got: ")
    assert "12 png" in lines[1]
    assert "  got/paper: 12 csv, 21 pdf, 1 tex, 1 txt" in lines
    assert _hashes("made") == _hashes("got")
    with pytest.raises(UsageError, match=f"made holds run {run_id}, not {'0' * 32}"):
        download_run("0" * 32, "made")


@pytest.mark.slow
@pytest.mark.usefixtures("few_plots")
def test_figures_for_a_paper_are_made_anew_when_a_run_with_more_epochs_is_published(sqlite_uri: str) -> None:
    """In the formats and widths that they had or that are asked for, and no others."""
    run_id = str(_record(sqlite_uri).run_id)
    first = publish_run(run_id, output_dir="made", figures=FigureSet("paper", ("svg",), ("single", "double")))
    with MetricsTracker("out", resume=True) as tracker:
        tracker.start_epoch(2)
        tracker.log_batch(0.1)
        tracker.end_epoch()

    second = publish_run(run_id, output_dir="again")
    third = publish_run(run_id, output_dir="third", figures=PAPER)
    download_run(run_id, "got")

    names = [[path.relative_to(made.output_dir) for path in made.files] for made in (first, second)]
    assert names[0] == names[1]
    assert Path("again/paper/loss_linear.csv").read_text(encoding="utf-8").splitlines()[-1].startswith("2,0.1,")
    assert len(third.files) == len(set(third.files)) == len(second.files) + 2 * len(FEW) - 1
    assert _hashes("third") == _hashes("got")


def test_figures_that_a_run_has_and_that_are_wanted_again_are_one_set() -> None:
    """So that none is drawn twice: each folder has one set, every picture of it in all formats and widths."""
    names = {"loss_linear.svg", "loss_linear_double.pdf", "loss_linear_double.svg", "dashboard.svg"}
    there = FigureSet.from_file_names("paper", names)

    assert there == FigureSet("paper", ("svg", "pdf"), ("single", "double"))
    assert FigureSet.merge([there, FigureSet("paper", ("svg",))]) == [there]
    assert FigureSet.merge([FigureSet("paper", ("svg",)), FigureSet("paper", ("pdf",), ("double",))]) == [there]
    assert FigureSet.from_file_names("dark", {"loss_linear.png"}) == FigureSet("dark", ("png",))
    assert FigureSet.from_file_names("paper", {"samples.png"}) is None


def test_a_trackers_figures_for_a_paper_leave_its_pngs_alone(sqlite_uri: str) -> None:
    """Files in a folder of the output directory are logged under that folder."""
    with MetricsTracker("out") as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(1.0)
        tracker.end_epoch()
        generate_all_plots(tracker, "out/paper", theme="paper", formats=["svg"])

    client = MlflowClient(sqlite_uri)
    logged = {path.path for path in client.list_artifacts(str(tracker.run_id), "metrics/paper")}
    root = {path.path for path in client.list_artifacts(str(tracker.run_id), "metrics") if not path.is_dir}
    assert {"metrics/paper/loss_log.svg", "metrics/paper/loss_log.csv", "metrics/paper/training_summary.tex"} <= logged
    assert root == {"metrics/training_metrics.csv", "metrics/training_metrics.json"}


def test_mistakes_get_one_clear_line_and_touch_nothing(sqlite_uri: str) -> None:
    """Nothing published, no such run, a tracker's own directory, no such width."""
    run_id = str(_record(sqlite_uri).run_id)
    before = _hashes("out")
    with pytest.raises(HistoryError, match=f"nothing published; publish it with: mlflow-ddpm publish {run_id}"):
        download_run(run_id, "got")
    with pytest.raises(StoreError, match="0123456789abcdef0123456789abcdef"):
        download_run("0123456789abcdef0123456789abcdef", "got")
    with pytest.raises(UsageError, match="out is the output directory of a training run"):
        download_run(run_id, "out")
    with pytest.raises(UsageError, match="width must be one of single, double"):
        publish_run(run_id, output_dir="more", figures=FigureSet("paper", ("pdf",), ("triple",)))

    assert before == _hashes("out")
    assert not Path("got").exists()
    assert not Path("more").exists()


def test_the_summary_for_a_paper_says_what_the_reports_table_says(sqlite_uri: str) -> None:
    """Full precision in the CSV; in LaTeX every measured line, with special characters and powers of ten printed."""
    _record(sqlite_uri)
    history = load_history("out")
    rows = list(history.rows)
    judged = {"sample/frechet": 0.25, "grad_part/middle": 0.5}
    rows[-1] = dataclasses.replace(rows[-1], extra={**rows[-1].extra, **judged})
    history = dataclasses.replace(history, rows=tuple(rows))
    table, tex = write_key_results(history, Path())
    lines = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    report = key_results_table(history)

    assert [line["label"] for line in lines] == [row[0] for row in report.rows]
    assert {line["name"]: line["value"] for line in lines}["best_loss"] == "0.5"
    assert [line["value"] == "" for line in lines] == [row[1] == "not measured" for row in report.rows]
    text = tex.read_text(encoding="utf-8")
    assert text.startswith("% needs \\usepackage{booktabs}\n\\begin{tabular}{llr}\n\\toprule\nResult & Value & Epoch")
    assert r"val\_fid/a\_b, last & $1.5 \times 10^{-7}$ & 1 \\" in text
    assert "GPU memory" not in text
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
