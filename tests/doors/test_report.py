"""The report says what the history says, as a valid model card, whatever the names in it.

The golden file is rewritten by ``REGENERATE_GOLDEN=1 python -m pytest tests/doors/test_report.py -k golden``; read the
difference before committing it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from mlflow_ddpm.analysis.frame import frame_from_rows
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import METRICS, EpochMetrics
from mlflow_ddpm.plots import generate_all_plots
from mlflow_ddpm.plotting.plot_table import PLOTS, plot_named
from mlflow_ddpm.report import generate_report
from mlflow_ddpm.reporting.context import ReportFigure, build_context
from mlflow_ddpm.reporting.manifest import OutputFile
from mlflow_ddpm.reporting.rendering import render_markdown

DASH = "\N{EN DASH}"
GOLDEN = Path(__file__).parent / "report_golden.md"
PLOT_NAMES = [plot.name for plot in PLOTS]
CONFIG = {"data": {"name": "digits"}, "optim": {"lr": 2e-3}, "model": {"num_classes": 10}}
NASTY = (
    "|", "||a|b||", "<script>alert(1)</script>", "<img src=x onerror=y>", "\n---\nlicense: evil\n---\n", "```\n# head",
    "`", "``", "[x](javascript:y)", "![p](http://h/p.png)", "*b* **c** _d_ __e__", "~~s~~", "\\", "\\|", "&lt;", "<br>",
    "{{ 7 * 7 }}", "{% raw %}", "\r\n| a | b |", "\u2028|", "\u202e", "\ud800", "\x00\x1b[31m", "'", '"', "$x$", "#1",
    "- item", "1. item", "> quote", "\t", "null", "yes", "~", "!!python/object:os.system", "&a *a", "%YAML", "",
    "key: value", "😀", "é", "\ufeff", "\x85", "-->", "<!--", "]]>", "&#124;",
)  # fmt: skip


def row(epoch: int, **values: Any) -> EpochMetrics:
    """Return a row whose values follow from its epoch, but for those given."""
    loss = 1.0 / (epoch + 1)
    defaults: dict[str, Any] = {
        "loss_mean": loss, "loss_std": loss / 8, "loss_min": loss / 2, "loss_max": loss * 2, "loss_median": loss,
        "lr": 0.001, "grad_norm": 2.5, "samples_per_sec": 1000.0 + epoch, "batches_per_sec": 16.0,
        "ema_delta_norm": 0.25, "epoch_time_sec": 2.0, "cumulative_time_sec": 2.0 * (epoch + 1),
        "nonfinite_batches": 0, "logged_at_ms": epoch,
    }  # fmt: skip
    return EpochMetrics(epoch=epoch, **(defaults | values))


def write_report(save_dir: Path, rows: Sequence[EpochMetrics], **options: Any) -> str:
    """Return the text of a report written from these rows."""
    return generate_report(frame_from_rows(rows), save_dir=save_dir, **options).read_text(encoding="utf-8")


def draw_all(directory: Path) -> dict[str, Path]:
    """Return eleven files that stand for the plots; their content is their name."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {name: directory / f"{name}.png" for name in PLOT_NAMES}
    for name, path in paths.items():
        path.write_bytes(name.encode())
    return paths


def render(rows: Sequence[EpochMetrics], **parts: Any) -> str:
    """Return a report's text without touching the disk."""
    facts = {name: parts.pop(name, {}) for name in ("config", "run", "environment")}
    empty: dict[str, Any] = {"figures": {}, "samples": [], "files": []}
    return render_markdown(build_context(RunHistory(rows=tuple(rows), **facts), **(empty | parts)))


def section(text: str, title: str) -> str:
    """Return what stands under a heading of the second level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of every table, split at the pipes that GitHub's Markdown splits at."""
    found: list[list[list[str]]] = [[]]
    for line in text.split("\n"):
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]])
        elif found[-1]:
            found.append([])
    return [t for t in found if t]


def card(text: str) -> Any:
    """Return the header's data, as HuggingFace reads it."""
    return ModelCard(text).data


def json_config(text: str) -> Any:
    """Return the config block's value; constants that JSON does not have are an error."""
    block = re.search(r"^(`{3,})json\n(.*?)\n\1$", text, re.DOTALL | re.MULTILINE)
    assert block
    return json.loads(block[2], parse_constant=pytest.fail)


def test_the_report_holds_what_the_specification_lists(tmp_path: Path) -> None:
    """Summary, hyperparameters, per-epoch table, plots and manifest are there, in one file of the specified name."""
    path = generate_report(
        frame_from_rows([row(0), row(1)]), config=CONFIG, save_dir=tmp_path, plot_paths=draw_all(tmp_path)
    )
    text = path.read_text(encoding="utf-8")

    assert tmp_path / "training_report.md" == path
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []
    for title in ("Summary", "Plots", "Hyperparameters", "Metrics per epoch", "Files"):
        assert section(text, title).strip()


def test_the_header_is_a_model_card_with_the_runs_results(tmp_path: Path) -> None:
    """HuggingFace loads the file as it stands; losses and extras are its evaluation results."""
    rows = [row(0), row(1, extra={"sample/accuracy": 0.985})]
    path = generate_report(frame_from_rows(rows), save_dir=tmp_path, config=CONFIG, run={"run_name": "owl"})
    data = ModelCard.load(path).data

    assert data.model_name == "owl"
    assert {r.metric_name: (r.metric_type, r.metric_value) for r in data.eval_results} == {
        "Training loss, lowest epoch mean (epoch 1)": ("loss", 0.5),
        "Training loss, last epoch mean (epoch 1)": ("loss", 0.5),
        "Sample accuracy, guidance 2 (epoch 1)": ("sample/accuracy", 0.985),
    }


def test_a_thinned_table_says_so_and_points_to_the_csv() -> None:
    """A reader must not take the shown epochs for all."""
    text = section(render([row(i) for i in range(1500)]), "Metrics per epoch")

    assert "999 of 1500 epochs, evenly spaced" in text
    assert "`training_metrics.csv` has them all" in text
    assert len(tables(text)[0]) == 999 + 2


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(0)],
        [EpochMetrics(epoch=4)],
        [row(i, **{m.name: math.nan for m in METRICS if not m.integral}) for i in range(3)],
        [row(0, loss_mean=-1.0), row(1, loss_mean=-2.0)],
    ],
    ids=["no epoch", "one epoch", "nothing measured", "all NaN", "negative loss"],
)
def test_odd_histories_make_a_valid_report(tmp_path: Path, rows: list[EpochMetrics]) -> None:
    """A report never fails for what was, or was not, measured."""
    text = write_report(tmp_path, rows, plot_paths=draw_all(tmp_path))

    assert card(text).pipeline_tag == "unconditional-image-generation"
    assert all(len({len(line) for line in table}) == 1 for table in tables(text))
    assert str(len(rows)) == tables(section(text, "Summary"))[0][4][1]


def test_the_config_is_shown_whole_as_strict_json(tmp_path: Path) -> None:
    """Values without a JSON form become strings; fences and angle brackets inside do no harm."""
    config = {"a": [1, 2.5, None, True], "path": tmp_path, "nan": math.nan, "text": "```\n</pre><b>|", "é": (1,)}
    text = render([row(0)], config=config)

    assert json_config(text) == {
        "a": [1, 2.5, None, True],
        "path": str(tmp_path),
        "nan": "NaN",
        "text": "```\n</pre><b>|",
        "é": [1],
    }


def test_the_dashboard_comes_first_and_every_plot_once(tmp_path: Path) -> None:
    """The eleven pictures are embedded by relative name, each with its title and a sentence from the data."""
    text = write_report(tmp_path, [row(0), row(1)], plot_paths=draw_all(tmp_path))
    embedded = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text)

    assert embedded[0] == ("Training Dashboard", "training_dashboard.png")
    assert sorted((plot.title, f"{plot.name}.png") for plot in PLOTS) == sorted(embedded)
    assert "The mean loss goes from 1 (epoch 0) to 0.5 (epoch 1)" in text
    assert "Not measured in this run." in text.split("(gpu_memory.png)")[1].split("###")[0]


def test_plots_in_the_directory_are_found_without_being_named(tmp_path: Path) -> None:
    """``plot_paths`` may be left out; pictures that are not there are not embedded."""
    draw_all(tmp_path)
    (tmp_path / "loss_log.png").unlink()
    text = write_report(tmp_path, [row(0)])

    assert text.count("![") == 10
    assert "(loss_log.png)" not in text


def test_the_manifest_is_a_table_and_the_newest_samples_are_shown(tmp_path: Path) -> None:
    """Every file of the specified tree, then the samples, of which the last is embedded."""
    paths = draw_all(tmp_path)
    (tmp_path / "samples").mkdir()
    for epoch in (9, 10):
        (tmp_path / "samples" / f"epoch_{epoch}.png").write_bytes(b"x")
    text = write_report(tmp_path, [row(0)], plot_paths=paths)
    files = {line[0].strip("`"): line[2:] for line in tables(section(text, "Files"))[0][2:]}

    assert len(files) == 4 + 11 + 2
    assert files["loss_linear.png"] == ["11", f"`{hashlib.sha256(b'loss_linear').hexdigest()}`"]
    assert files["training_report.md"] == [DASH, DASH]
    assert "![Generated samples](samples/epoch_10.png)" in text


def test_every_class_of_the_page_has_a_style(tmp_path: Path) -> None:
    """A name that no rule knows is a misspelt one: what it should hide, frame or narrow is not."""
    extras = {f"extra/{number}": 1.0 for number in range(30)}  # too many columns to be printed
    write_report(tmp_path, [row(0, extra=extras), row(1, loss_mean=math.nan, nonfinite_batches=3)])
    page = (tmp_path / "training_report.html").read_text(encoding="utf-8")
    style = page.partition("<style>")[2].partition("</style>")[0]
    used = {name for names in re.findall(r'class="([^"]*)"', page) for name in names.split()}

    assert {"wide", "stacked", "long"} <= used
    assert re.search(r"@media print .*\.wide tr > :nth-child\(n\+\d+\) { display: none; }", style, re.DOTALL)
    assert {name for name in used if not re.search(rf"\.{name}\b", style)} == {"l"}


@pytest.mark.slow
def test_both_forms_stay_below_a_megabyte_whatever_the_columns(tmp_path: Path) -> None:
    """The core columns and what fits; the plots in fewer colours, and no class for each of 30,000 cells."""
    rng, names = np.random.default_rng(0), [f"group{number % 7}/extra_metric_{number}" for number in range(300)]
    rows = [row(epoch, loss_mean=rng.random(), extra={n: -rng.random() for n in names}) for epoch in range(1000)]
    history = RunHistory(rows=tuple(rows))
    paths = generate_all_plots(history, tmp_path)
    generate_report(history, save_dir=tmp_path, plot_paths=paths)

    assert sum(path.stat().st_size for path in paths.values()) > 400_000
    assert all((tmp_path / name).stat().st_size < 1_000_000 for name in ("training_report.md", "training_report.html"))


def test_the_same_inputs_give_the_same_bytes_in_any_directory(tmp_path: Path) -> None:
    """No path and no time of day enters the report; writing it again changes nothing."""
    texts = []
    for directory in (tmp_path / "a", tmp_path / "b" / "c", tmp_path / "a"):
        paths = draw_all(directory)
        texts.append(
            write_report(directory, [row(0), row(1)], plot_paths=paths, config=CONFIG, run={"run_name": "owl"})
        )

    assert texts[0] == texts[1] == texts[2]
    assert str(tmp_path) not in texts[0]


def test_a_relative_save_dir_links_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification's own call passes ``"./my_metrics"``."""
    monkeypatch.chdir(tmp_path)
    text = generate_report(frame_from_rows([row(0)]), save_dir="./m", plot_paths=draw_all(Path("m"))).read_text()

    assert "(loss_linear.png)" in text


def nasty_text(source: random.Random) -> str:
    """Return a few hostile fragments in a row."""
    return "".join(source.choice(NASTY) for _ in range(source.randint(1, 5)))


@pytest.mark.parametrize("seed", range(60))
def test_no_foreign_name_breaks_tables_header_or_page(tmp_path: Path, seed: int) -> None:
    """Names of runs, metrics, files and data sets, config and environment are text, whatever they hold."""
    source = random.Random(seed)  # noqa: S311 - a test's dice
    config = {
        nasty_text(source): nasty_text(source),
        "data": {"name": nasty_text(source)},
        "license": nasty_text(source),
    }
    sample = OutputFile(link=f"samples/{nasty_text(source)}.png", about="Generated samples")
    extras = {nasty_text(source): 1.0, nasty_text(source): math.nan}
    text = render(
        [row(0, extra=extras), row(1)],
        config=config,
        run={"run_name": nasty_text(source), "run_id": nasty_text(source), nasty_text(source): nasty_text(source)},
        environment={nasty_text(source): nasty_text(source)},
        figures={"loss_log": ReportFigure(title="Loss", link="loss_log.png", caption="c")},
        samples=[sample],
        files=[sample],
    )
    (tmp_path / "report.md").write_text(text, encoding="utf-8")
    data = ModelCard.load(tmp_path / "report.md").data
    body = text.split("\n---\n", 1)[1]
    prose = re.sub(r"^(`{3,})json\n.*?\n\1$", "", body, flags=re.DOTALL | re.MULTILINE)
    headings = [line for line in body.split("\n") if line.startswith("#")]

    assert "loss" in {r.metric_type for r in data.eval_results}
    assert data.pipeline_tag == "unconditional-image-generation"
    assert "evil" not in (data.license or "")
    assert "<" not in text
    assert all(len({len(line) for line in table}) == 1 for table in tables(body))
    assert "Metrics per epoch" in headings[-1]
    assert len(headings) == 12
    assert json_config(body) == json.loads(json.dumps(config))
    assert [link for link in re.findall(r"!\[.*?\]\((.*?)\)", prose) if not link.startswith("samples/")] == [
        "loss_log.png"
    ]


def test_the_page_reads_as_in_the_golden_file() -> None:
    """Every part of the page at once, so that a change of wording or layout is seen in review."""
    rows = [
        row(0, extra={"fid": 30.5}),
        row(1, loss_mean=math.nan, loss_std=None, nonfinite_batches=3),
        row(3, gpu_allocated_mb=100.5, gpu_reserved_mb=128.0, gpu_peak_mb=120.25, extra={"fid": 12.25}),
    ]
    text = render(
        rows,
        config=CONFIG | {"license": "mit", "weights": math.inf},
        run={
            "run_id": "0a1b2c",
            "run_name": "quiet|owl",
            "experiment_name": "ddpm",
            "start_time_ms": 0,
        },
        environment={"python": "3.12.1", "device": "cuda:0", "world_size": 2},
        figures={
            name: ReportFigure(
                title=name.replace("_", " ").capitalize(),
                link=f"{name}.png",
                caption="How to read it.",
                reading=plot_named(name).describe(RunHistory.create(rows)),
            )
            for name in PLOT_NAMES
        },
        samples=[OutputFile(link="samples/epoch_0003.png", about="Generated samples", size=7, sha256="ab" * 32)],
        files=[OutputFile(link="training_metrics.csv", about="One row per epoch", size=1234, sha256="cd" * 32)],
    )
    if os.environ.get("REGENERATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8", newline="\n")

    assert GOLDEN.read_text(encoding="utf-8") == text
