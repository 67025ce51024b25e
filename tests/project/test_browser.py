"""What a person sees: the run page of a real ``mlflow server`` in a real browser, with a run that was really tracked.

Screenshots of every page are kept in ``$SCREENSHOTS_DIR``, else in pytest's directory of the test.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from support.webdriver import Browser, browser, missing_program

from mlflow_ddpm import MetricsTracker, publish_run
from mlflow_ddpm.plotting.plot_table import PLOTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_program() is not None, reason=f"there is no {missing_program()} on this machine"),
]

NAME = "seen in a browser"
SETTINGS = {"optim": {"lr": 0.001}, "data": {"name": "toy"}}
EPOCHS = 12


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Browser]:
    """A browser's window."""
    with browser(tmp_path / "profile") as one:
        yield one


@pytest.fixture
def run_id(server_uri: str) -> str:
    """A tracked and published run, with pictures of samples."""
    with MetricsTracker("out", tracking_uri=server_uri, run_name=NAME, config=SETTINGS) as tracker:
        for epoch in range(EPOCHS):
            tracker.start_epoch(epoch)
            for batch in range(4):
                loss = math.exp(-epoch / 3) + 0.02 * batch + 0.05
                tracker.log_batch(loss, lr=0.001, grad_norm=2 * loss, batch_size=64)
            tracker.end_epoch(extra={"sample/accuracy": epoch / EPOCHS})
            pixels = np.linspace(0, 20 * epoch, 84 * 84).astype(np.uint8).reshape(84, 84)
            tracker.log_image("samples", pixels, epoch=epoch)
    publish_run(str(tracker.run_id), output_dir="out", tracking_uri=server_uri)
    return str(tracker.run_id)


def test_a_person_sees_run_page_charts_description_report_and_pictures(
    server_uri: str, run_id: str, window: Browser, tmp_path: Path
) -> None:
    """Page by page, as one would click through them."""
    page = f"{server_uri}/#/experiments/0/runs/{run_id}"
    pictures = Path(os.environ.get("SCREENSHOTS_DIR", tmp_path / "screenshots"))
    tags = MlflowClient(server_uri).get_run(run_id).data.tags

    with _screenshot(window, pictures / "run_page.png"):
        _check_overview(window, page, tags["mlflow.note.content"])
    with _screenshot(window, pictures / "metric_charts.png"):
        _check_charts(window, f"{page}/model-metrics")
    with _screenshot(window, pictures / "image_view.png"):
        _check_image_view(window)
    with _screenshot(window, pictures / "report_html.png"):
        _check_html_report(window, f"{page}/artifacts/metrics/training_report.html")
    with _screenshot(window, pictures / "report_markdown.png"):
        _check_markdown_report(window, f"{page}/artifacts/metrics/training_report.md")
    for name in ("training_dashboard.png", f"samples/samples_epoch_{EPOCHS - 1:06d}.png"):
        with _screenshot(window, pictures / f"artifact_{Path(name).name}"):
            _check_picture(window, f"{page}/artifacts/metrics/{name}", Path("out") / name)

    assert len(list(pictures.glob("*.png"))) >= 7


@contextmanager
def _screenshot(window: Browser, path: Path) -> Iterator[None]:
    """Keep what the window shows at the end, be it right or wrong."""
    try:
        yield
    finally:
        window.screenshot(path)


def _open(window: Browser, url: str) -> None:
    """Open a page afresh: its address differs from the last one's after the # alone."""
    window.open("about:blank")
    window.open(url)


def _check_overview(window: Browser, url: str, description: str) -> None:
    _open(window, url)
    text = window.wait_for(NAME, "Finished", "loss_mean", "sample/accuracy", "optim.lr", "0.001", "RunMetadata")

    assert "No description" not in text
    assert _words(description) <= set(text.split())


def _words(markdown: str) -> set[str]:
    """Return the words of a text that its markup leaves as they are."""
    return {word for word in markdown.split() if word.isalpha()}


def _check_charts(window: Browser, url: str) -> None:
    """A chart each metric, with a line through all epochs."""
    _open(window, url)
    window.wait_for("loss_mean", "grad_norm", "loss_median")
    window.wait_until_true(
        f"[...document.querySelectorAll('.js-plotly-plot')].some(chart => chart.data[0].x.length == {EPOCHS})"
    )


def _check_image_view(window: Browser) -> None:
    """Further down the same page: the samples of an epoch."""
    window.run(
        "document.querySelectorAll('*').forEach(e => { if (e.scrollHeight > e.clientHeight + 50) e.scrollTop = 1e6 })"
    )
    window.wait_for("samples_per_sec", "sample/accuracy", "samples")
    window.wait_until_true(
        "[...document.images].some(image => image.src.includes('images%2Fsamples') && image.naturalWidth > 0)"
    )


def _check_html_report(window: Browser, url: str) -> None:
    """In the viewer's own frame, with all pictures, since none is a file beside it."""
    _open(window, url)
    window.wait_for("training_report.html", "training_dashboard.png")
    window.enter_frame("iframe[src^='blob:']")
    text = window.wait_for(NAME, "Best loss", *(plot.title for plot in PLOTS))
    window.wait_until_true(f"document.images.length >= {len(PLOTS)}")
    window.wait_until_true("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    # Some frames later it is painted, too, and the screenshot shows it.
    window.wait_until_true("(window.frames_seen ??= 0, requestAnimationFrame(() => frames_seen++), frames_seen > 3)")
    window.leave_frame()

    assert "undefined" not in text


def _check_markdown_report(window: Browser, url: str) -> None:
    """As text with headings and tables; pictures beside a Markdown file are what the viewer does not resolve."""
    _open(window, url)
    window.wait_for("Hyperparameters", "Best loss")
    window.wait_until_true("[...document.querySelectorAll('h2')].some(head => head.innerText == 'Summary')")
    window.wait_until_true("document.querySelectorAll('table, [role=table]').length >= 3")


def _check_picture(window: Browser, url: str, file: Path) -> None:
    """Whole, in the size of the file."""
    with Image.open(file) as image:
        width, height = image.size
    _open(window, url)
    window.wait_until_true(
        f"[...document.images].some(image => image.naturalWidth == {width} && image.naturalHeight == {height})"
    )
