"""The files that the plots become: formats, sizes in print, fonts, the same bytes anywhere, the data beside them."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.patches import StepPatch
from matplotlib.text import Text
from PIL import Image
from support.common import ROOT, slow
from support.histories import changed, drawn, everywhere, healthy, only_axes, resumed, sick

from mlflow_ddpm.analysis.frame import numbers
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.plots import generate_all_plots, make_figure, write_plot_data
from mlflow_ddpm.plotting.figure import build_figure, write_figure
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.plotting.themes import add_new_fonts, font_families

NAMES = [plot.name for plot in PLOTS]
SINGLES = NAMES[:-1]


def _write(name: str, path: str, epochs: int, width: str = "single") -> Path:
    return write_figure(make_figure(name, healthy(epochs), theme="paper", width=width), Path(path))


@pytest.mark.slow
def test_vector_files_have_their_data_beside_them_and_one_picture_of_each_width(tmp_path: Path) -> None:
    """What a report can show is returned; the dashboard is as wide as both columns, once."""
    paths = generate_all_plots(healthy(0), tmp_path, theme="paper", formats=("pdf", "svg"), widths=("single", "double"))
    found = {path.name for path in tmp_path.iterdir()}

    assert {name: tmp_path / f"{name}.svg" for name in NAMES} == paths
    assert found == {
        *(f"{name}{width}.{fmt}" for name in SINGLES for width in ("", "_double") for fmt in ("pdf", "svg")),
        *(
            "training_dashboard.pdf",
            "training_dashboard.svg",
            "training_summary.csv",
            "training_summary.tex",
            "captions.txt",
        ),
        *(f"{name}.csv" for name in NAMES),
    }


@pytest.mark.parametrize(("width", "inches"), [("single", 3.5), ("double", 7.2)])
def test_pictures_are_as_wide_as_a_papers_columns(width: str, inches: float) -> None:
    """Printed without scaling, so that letters of 7 pt are 7 pt."""
    pdf, svg = (_write("loss_log", f"picture.{fmt}", 50, width) for fmt in ("pdf", "svg"))
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", pdf.read_bytes())

    assert box is not None
    assert float(box[1]) == pytest.approx(72 * inches)
    assert ET.parse(svg).getroot().get("width") == f"{72 * inches:g}pt"  # noqa: S314 - our own file


def test_pdfs_embed_truetype_fonts_and_no_file_holds_a_date() -> None:
    """Journals refuse Type 3 fonts; no LaTeX is asked."""
    pdf, svg = (_write("loss_linear", f"picture.{fmt}", 50).read_bytes() for fmt in ("pdf", "svg"))

    assert b"/FontFile2" in pdf
    assert b"Type3" not in pdf
    assert not [word for word in (b"CreationDate", b"Producer", b"Creator") if word in pdf]
    assert b"<dc:date>" not in svg


@pytest.mark.parametrize("name", ["loss_linear", slow("loss_derivative"), slow("training_dashboard")])
def test_ten_thousand_epochs_make_small_files_of_few_objects(name: str) -> None:
    """Bars and bands are one object each however many epochs they span."""
    pdf, svg = (_write(name, f"many.{fmt}", 10_000) for fmt in ("pdf", "svg"))
    few, many = (_shapes(_write(name, f"{epochs}.svg", epochs)) for epochs in (50, 10_000))
    kib = 1 if name in SINGLES else 3

    assert pdf.stat().st_size < kib * 50 * 1024
    assert svg.stat().st_size < kib * 150 * 1024
    assert many < 2 * few  # not 10,000: letters of longer words, and strokes of the range beside the line


def _shapes(svg: Path) -> int:
    tree = ET.parse(svg)  # noqa: S314 - our own file
    return sum(element.tag.rpartition("}")[2] in ("path", "use") for element in tree.iter())


@pytest.mark.parametrize("name", ["loss_log", "gpu_memory", slow("training_dashboard")])
def test_words_stand_in_the_same_place_at_every_resolution(name: str) -> None:
    """A PDF has 72 dots to the inch, a PNG 300: nothing may be placed by the pixel."""
    figure = make_figure(name, resumed(50), theme="paper")
    places = []
    for dpi in (300, 72):
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        texts = [text for ax in figure.axes for text in ax.texts]
        places.append([Text.get_window_extent(text).get_points().mean(axis=0) / dpi for text in texts])

    assert len(places[0]) >= 3
    assert np.allclose(places[0], places[1], atol=0.08)  # inches; hinting makes words a little wider


_RENDER = """
import hashlib, sys
from pathlib import Path
from mlflow_ddpm import plots
print("loaded at import:", [m for m in ("matplotlib", "torch", "mlflow") if m in sys.modules])
import pandas as pd
from mlflow_ddpm.analysis.history import read_history
history = read_history("history.csv")
plots.generate_all_plots(history, "files", theme="paper", formats=("png", "pdf", "svg"))
for path in sorted(Path("files").iterdir()):
    print(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
print("loaded at last:", [m for m in ("matplotlib.pyplot", "torch", "mlflow") if m in sys.modules])
"""


@pytest.mark.slow
def test_same_history_same_bytes_and_pyplot_stays_out(tmp_path: Path) -> None:
    """Two processes, with other hash seeds, days, zones, directories and user settings, write the same files."""
    from mlflow_ddpm.analysis.frame import rows_from_frame
    from mlflow_ddpm.storage.csv_file import render_csv

    outputs = []
    for seed, zone, day in (("1", "UTC", "0"), ("2", "Asia/Tokyo", "1700000000")):
        place = tmp_path / seed
        place.mkdir()
        (place / "history.csv").write_bytes(render_csv(rows_from_frame(sick(50))))
        (place / "matplotlibrc").write_text(f"font.size: {seed}\nlines.linewidth: {seed}\n")
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "TZ": zone}
        environment["SOURCE_DATE_EPOCH"] = day  # what matplotlib takes for today
        command = [sys.executable, "-c", _RENDER]
        outputs.append(subprocess.check_output(command, cwd=place, env=environment, text=True, timeout=120))
    lines = outputs[0].splitlines()

    assert outputs[0] == outputs[1]
    assert len(set(lines)) == 2 + 3 * 11 + 11 + 3
    assert (lines[0], lines[-1]) == ("loaded at import: []", "loaded at last: []")


@pytest.mark.parametrize("epochs", [0, 50, slow(10_000)])
@pytest.mark.parametrize("name", NAMES)
def test_the_csv_has_every_epoch_of_what_the_picture_shows(name: str, epochs: int, csv_of: object) -> None:
    """In full resolution, with the history's own numbers, whatever the picture gathers or clips."""
    assert callable(csv_of)
    frame = sick(epochs) if epochs else healthy(0)
    head, *rows = csv_of(name, frame)

    assert (head[0], head[-1]) == ("epoch", "mark")
    assert [int(row[0]) for row in rows] == frame["epoch"].tolist()
    for i, column in enumerate(head):
        if column in frame and column != "epoch":
            cells = np.array([float(row[i]) if row[i] else np.nan for row in rows])
            assert np.array_equal(cells, numbers(frame, column), equal_nan=True)


@pytest.fixture
def csv_of(tmp_path: Path) -> object:
    """Return a function that writes a plot's data and reads the lines back."""

    def read(name: str, frame: object) -> list[list[str]]:
        history = RunHistory.from_frame(frame)  # type: ignore[arg-type]
        path = write_plot_data(name, history, tmp_path)
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.reader(file))

    return read


@pytest.mark.parametrize(
    ("name", "column"),
    [("loss_distribution", "loss_mean_plus_std"), ("loss_derivative", "loss_mean_change"), ("throughput", None)],
)
def test_derived_numbers_are_those_that_are_drawn(name: str, column: str | None, csv_of: object) -> None:
    """One derivation serves the picture and the file."""
    assert callable(csv_of)
    ax = only_axes(make_figure(name, healthy(50)))
    head, *rows = csv_of(name, healthy(50))
    if column is None:
        (line,) = [line for line in ax.lines if line.get_gid() == "median"]
        assert {row[head.index("samples_per_sec_median")] for row in rows} == {
            repr(float(np.asarray(line.get_ydata())[0]))
        }
        return
    corners = [np.asarray(p.vertices)[:, 1] for c in ax.collections for p in c.get_paths()]
    corners += [np.asarray(patch.get_data()[0]) for patch in ax.patches if isinstance(patch, StepPatch)]

    cells = [row[head.index(column)] for row in rows]
    heights = np.concatenate(corners)
    raised = np.nanmin(np.abs(heights)) if name == "loss_derivative" else 0.0  # lower bars could not be seen
    assert {float(cell) for cell in cells if cell and abs(float(cell)) > raised} <= set(heights.tolist())
    assert cells.count("") == (1 if name == "loss_derivative" else 0)


def test_the_csv_keeps_not_measured_not_finite_and_no_such_epoch_apart(csv_of: object) -> None:
    """An empty cell, ``nan`` or ``inf``, and no row; best epoch and resumes are marked as in the picture."""
    assert callable(csv_of)
    frame = changed(everywhere(resumed(20), gpu_peak_mb=None), 9, loss_mean=float("inf"))
    frame.attrs.update(resumed(20).attrs)
    loss, memory = csv_of("loss_linear", frame), csv_of("gpu_memory", frame)
    best = drawn(only_axes(make_figure("loss_linear", frame)), "best")[0][0][0]
    marks = {int(row[0]): row[-1] for row in loss[1:] if row[-1]}

    assert {row[memory[0].index("gpu_peak_mb")] for row in memory[1:]} == {""}
    assert [row[1] for row in loss[1:] if row[0] in ("6", "9")] == ["nan", "inf"]
    assert "5" not in [row[0] for row in loss[1:]]
    assert marks == {int(best): "best", 4: "resumed", 6: "resumed", 18: "resumed"}


def test_a_png_has_the_pixels_that_matplotlib_draws_and_no_more() -> None:
    """Another library reads the same picture from it, to the last pixel."""
    figure = make_figure("loss_distribution", sick(50))
    write_figure(figure, Path("ours.png"))
    figure.savefig("theirs.png")
    with Image.open("ours.png") as ours, Image.open("theirs.png") as theirs:
        assert ours.mode == "RGB"
        assert np.array_equal(np.asarray(ours), np.asarray(theirs.convert("RGB")))


def test_a_canvas_and_its_files_say_what_they_offer() -> None:
    """A format without a writer is refused by name, before a file is made."""
    with pytest.raises(UsageError, match="png, pdf, svg, got 'txt'"):
        write_figure(build_figure([("", lambda _ax: None)], theme="paper"), Path("picture.txt"))

    assert not Path("picture.txt").exists()


def test_a_printed_figure_can_have_a_serif_font_that_is_embedded() -> None:
    """STIX comes with matplotlib; signs that it has not are DejaVu's."""
    path = write_figure(make_figure("loss_distribution", healthy(20), theme="paper", font="serif"), Path("serif.pdf"))

    assert b"STIXGeneral" in path.read_bytes()
    assert b"Type3" not in path.read_bytes()


def test_a_font_is_refused_where_it_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names what there is; nothing is written."""
    monkeypatch.setattr("mlflow_ddpm.plotting.themes._SANS", ("No Such Font",))
    with pytest.raises(UsageError, match="font must be one of serif, sans, got 'mono'"):
        make_figure("loss_log", healthy(1), theme="paper", font="mono")
    with pytest.raises(UsageError, match="goes with the theme paper, got 'dark'"):
        generate_all_plots(healthy(1), tmp_path / "out", font="serif")
    with pytest.raises(UsageError, match="takes one of No Such Font; none is installed"):
        generate_all_plots(healthy(1), tmp_path / "out", theme="paper", font="sans")

    assert not (tmp_path / "out").exists()


def test_a_font_that_was_installed_lately_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matplotlib keeps its list of fonts for good; a file of the system that is no font for it is passed over."""
    lately = next(entry for entry in font_manager.fontManager.ttflist if entry.name == "cmr10")
    older = [entry for entry in font_manager.fontManager.ttflist if entry.name != "cmr10"]
    Path("no.ttf").write_bytes(b"no font")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", older)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: ["no.ttf", lately.fname])
    monkeypatch.setattr("mlflow_ddpm.plotting.themes._SANS", ("cmr10",))
    add_new_fonts.cache_clear()

    assert font_families("sans")[0] == "cmr10"


def test_captions_lie_beside_printed_figures(tmp_path: Path) -> None:
    """Each plot has how to read it, what it shows of this run, and the facts that the picture leaves out."""
    generate_all_plots(healthy(20), tmp_path, theme="paper")
    captions = dict(
        line.split(": ", 1) for line in (tmp_path / "captions.txt").read_text(encoding="utf-8").splitlines() if line
    )

    assert set(captions) == set(NAMES)
    assert captions["epoch_timing"].startswith("Wall-clock seconds of each epoch; the dashed line is the median.")
    assert "The median epoch time is 1" in captions["epoch_timing"]
    assert "Training time 4 min 09 s" in captions["epoch_timing"]
