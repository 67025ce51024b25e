"""The eleven plots as a set: their table, their look, and what they make of strange histories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import pytest
from PIL import Image
from support.common import slow
from support.histories import INF, NAN, healthy, healthy_row, words

from mlflow_ddpm.analysis.frame import frame_from_rows
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.plots import THEMES, generate_all_plots, make_figure
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.plotting.text import duration, number

NAMES = [plot.name for plot in PLOTS]
ALL_PANELS = ("loss_distribution", "training_dashboard")  # each of the ten panels is in one of these two


def test_the_table_holds_the_specified_plots_and_the_dashboard_repeats_nine_of_them() -> None:
    """Names and their order are the specification's; the dashboard's nine panels are those of nine other plots."""
    dashboard = PLOTS[-1]
    singles = {plot.panels[0] for plot in PLOTS[:-1]}

    assert NAMES == [
        "loss_linear", "loss_log", "loss_distribution", "learning_rate", "grad_norm", "throughput", "gpu_memory",
        "ema_divergence", "epoch_timing", "loss_derivative", "training_dashboard",
    ]  # fmt: skip
    assert len(set(dashboard.panels)) == 9
    assert set(dashboard.panels) < singles
    assert all(plot.caption.endswith(".") for plot in PLOTS)


@pytest.mark.parametrize("name", NAMES)
def test_no_epochs_no_columns_no_crash(name: str) -> None:
    """An empty history says that there are no epochs yet, and a bare frame says what was not measured."""
    import pandas as pd

    bare = pd.DataFrame({"epoch": [0, 1, 2]})

    assert "no epochs yet" in words(make_figure(name, healthy(0)))
    assert any(text.startswith("not measured:") for text in words(make_figure(name, bare)))


STRANGE: dict[str, list[float | None]] = {
    "largest doubles": [1.7e308, -1.7e308, 1.7e308],
    "smallest doubles": [5e-324, 0.0, 1e-323],
    "all infinite": [INF, -INF, INF],
    "one among NaN": [NAN, 2.0, NAN, NAN],
    "one among none": [None, None, 2.0, None],
    "negative": [-1.0, -2.0, -1.5, -700.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0],
    "many decades": [10.0**k for k in range(-20, 20)],
}


@pytest.mark.parametrize("kind", ["largest doubles", "one among none", *map(slow, [*STRANGE][1:4] + [*STRANGE][5:])])
def test_any_float_can_be_drawn(kind: str) -> None:
    """No value that a double can hold stops a plot or makes matplotlib warn."""
    values = STRANGE[kind]
    names = list(healthy(1).columns[1:16])
    rows = [replace(EpochMetrics(epoch=e), **dict.fromkeys(names, v)) for e, v in enumerate(values)]
    frame = frame_from_rows(rows)

    for name in ALL_PANELS:
        make_figure(name, frame).draw_without_rendering()


def test_epochs_may_be_far_apart() -> None:
    """A history of two epochs a billion apart costs no more than its rows."""
    frame = frame_from_rows([healthy_row(0), healthy_row(10**9)])
    figure = make_figure("training_dashboard", frame)

    assert any("missing: 999,999,999 epochs" in text for text in words(figure))


@pytest.mark.parametrize("theme", [slow("dark") if theme == "dark" else theme for theme in THEMES])
def test_files_bear_the_specified_names_and_look(theme: str, tmp_path: Path) -> None:
    """All eleven are written, at the theme's resolution, on its background, with no word of when or by what."""
    paths = generate_all_plots(healthy(1), tmp_path / "new" / "folder", theme=theme)
    dpi, background = {"dark": (180, (0x0E, 0x11, 0x17)), "paper": (300, (255, 255, 255))}[theme]

    assert {name: tmp_path / "new" / "folder" / f"{name}.png" for name in NAMES} == paths
    found = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
    assert found == {f"{name}.png" for name in NAMES} | ({"captions.txt"} if theme == "paper" else set())
    for path in paths.values():
        with Image.open(path) as image:
            assert image.info["dpi"] == pytest.approx((dpi, dpi), abs=0.02)
            assert image.convert("RGB").getpixel((1, 1)) == background
            assert "Software" not in image.info


def test_the_user_settings_of_matplotlib_survive(tmp_path: Path) -> None:
    """Building and saving leave every setting of matplotlib as it was."""
    before = dict(mpl.rcParams)
    figure = make_figure("loss_log", healthy(3), theme="paper")
    figure.savefig(tmp_path / "figure.png")

    assert dict(mpl.rcParams) == before


def test_a_figure_keeps_its_look_when_saved_later_by_someone_else() -> None:
    """Other settings at the time of saving do not change a byte."""
    make_figure("loss_linear", healthy(3)).savefig("now.png")
    figure = make_figure("loss_linear", healthy(3))
    with mpl.rc_context({"font.size": 30, "xtick.color": "red", "savefig.dpi": 50}):
        figure.savefig("later.png")

    assert Path("now.png").read_bytes() == Path("later.png").read_bytes()


def test_mistakes_name_what_is_offered(tmp_path: Path) -> None:
    """An unknown plot, theme or format is refused with the list of those there are, before anything is written."""
    with pytest.raises(UsageError, match=r"loss_linear, .*got 'loss'"):
        make_figure("loss", healthy(1))
    with pytest.raises(UsageError, match="dark, paper, got 'light'"):
        generate_all_plots(healthy(1), tmp_path / "out", theme="light")
    with pytest.raises(UsageError, match="png, pdf, svg, got 'bmp'"):
        generate_all_plots(healthy(1), tmp_path / "out", formats=["bmp"])
    with pytest.raises(UsageError, match="png, pdf, svg, got none"):
        generate_all_plots(healthy(1), tmp_path / "out", formats=[])
    with pytest.raises(UsageError, match="single, double, got 'wide'"):
        generate_all_plots(healthy(1), tmp_path / "out", theme="paper", widths=["wide"])
    with pytest.raises(UsageError, match="'double' is that of a paper's column"):
        make_figure("loss_log", healthy(1), width="double")

    assert not (tmp_path / "out").exists()


def test_numbers_and_durations_are_short() -> None:
    """Four digits are enough; small and large numbers take a power of ten."""
    assert [number(v) for v in (0.0, 0.0213456, 5.0, 1234.5, 2e-4, -0.5, 1.25e7)] == [
        "0", "0.02135", "5", "1,234", "2e\u22124", "\u22120.5", "1.25e7",
    ]  # fmt: skip
    assert [duration(s) for s in (0.5, 59.0, 61.0, 3600.0, 90_000.0)] == [
        "0.5 s",
        "59 s",
        "1 min 01 s",
        "1 h 00 min",
        "1 d 01 h",
    ]
