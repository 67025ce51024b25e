"""What a person sees: the pages of a real ``mlflow server`` in a real browser, with runs that were really tracked.

Screenshots of every page are kept in ``$SCREENSHOTS_DIR``, else in pytest's directory of the test.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image
from support.webdriver import Browser, browser, missing_program

from mlflow_ddpm import MetricsTracker, publish_run
from mlflow_ddpm.core.links import run_link
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.tracking.run_metadata import RunConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_program() is not None, reason=f"there is no {missing_program()} on this machine"),
]

EPOCHS, LIVE_POINTS = 12, 6
LAST_SAMPLE = f"samples/samples_epoch_{EPOCHS - 1:06d}.png"
WORKFLOW = "?workflowType=machine_learning"


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Browser]:
    """A browser's window."""
    with browser(tmp_path / "profile") as opened:
        yield opened


def train(uri: str, name: str, lr: float, floor: float) -> str:
    """Return the id of a tracked run, with pictures of samples."""
    config = {"optim": {"lr": lr}, "data": {"name": "toy"}}
    dataset = {"name": "toy", "digest": "0123abcd", "source": "made here", "images": "256"}
    described = RunConfig(config, {"optim.lr": str(lr)}, dataset)
    with MetricsTracker(name, tracking_uri=uri, run_name=name, config=described) as tracker:
        for epoch in range(EPOCHS):
            tracker.start_epoch(epoch)
            for batch in range(4):
                loss = math.exp(-epoch / 3) + 0.02 * batch + floor
                tracker.log_batch(loss, lr=lr, grad_norm=2 * loss, batch_size=64)
            tracker.end_epoch(extra={"sample/accuracy": epoch / EPOCHS, "loss_t/q1": loss, "loss_t/q4": loss / 3})
            pixels = np.linspace(0, 20 * epoch, 84 * 84).astype(np.uint8).reshape(84, 84)
            tracker.log_image("samples", pixels, epoch=epoch)
    return str(tracker.run_id)


def test_a_person_finds_their_way_from_the_printed_link_to_the_comparison(
    server_uri: str, window: Browser, tmp_path: Path
) -> None:
    """Page by page, as one would click through them."""
    worse, better = (train(server_uri, *run) for run in (("worse", 0.0003, 0.2), ("better", 0.001, 0.05)))
    publish_run(better, output_dir="better", tracking_uri=server_uri)
    pictures = Path(os.environ.get("SCREENSHOTS_DIR", tmp_path / "screenshots"))
    link = run_link(server_uri, "0", better)
    page = link.removesuffix(WORKFLOW)

    with _screenshot(window, pictures / "run_page.png"):
        _check_run_page(window, link)
    with _screenshot(window, pictures / "metric_charts.png"):
        _check_charts(window, f"{page}/model-metrics{WORKFLOW}")
    with _screenshot(window, pictures / "runs_table.png"):
        _check_runs_table(window, f"{server_uri}/#/experiments/0/runs{WORKFLOW}")
    with _screenshot(window, pictures / "compared_runs.png"):
        _check_comparison(window, server_uri, [worse, better])
    with _screenshot(window, pictures / "report_html.png"):
        _check_html_report(window, f"{page}/artifacts/metrics/training_report.html{WORKFLOW}")
    with _screenshot(window, pictures / "report_markdown.png"):
        _check_markdown_report(window, f"{page}/artifacts/metrics/training_report.md{WORKFLOW}")
    for name in ("training_dashboard.png", LAST_SAMPLE):
        with _screenshot(window, pictures / f"artifact_{Path(name).name}"):
            _check_picture(window, f"{page}/artifacts/metrics/{name}{WORKFLOW}", Path("better") / name)


def test_a_run_shows_how_it_goes_while_its_first_epoch_runs(server_uri: str, window: Browser, tmp_path: Path) -> None:
    """Lines of live/ points on the run's page, which has no row yet."""
    pictures, dice, batch = Path(os.environ.get("SCREENSHOTS_DIR", tmp_path / "screenshots")), random.Random(0), 0  # noqa: S311
    options = {"tracking_uri": server_uri, "run_name": "an hour's epoch", "live_every_sec": 1.3}
    with MetricsTracker("out", **options) as tracker:  # type: ignore[arg-type]
        page = run_link(server_uri, "0", str(tracker.run_id)).removesuffix(WORKFLOW)
        tracker.start_epoch(0)
        deadline = time.monotonic() + 120
        while len(MlflowClient(server_uri).get_metric_history(str(tracker.run_id), "live/loss")) < LIVE_POINTS:
            assert time.monotonic() < deadline
            for _ in range(20):
                batch += 1
                loss = 0.1 + math.exp(-batch / 300) + 0.1 * dice.random()
                tracker.log_batch(loss, lr=min(1e-3, batch * 2e-6), grad_norm=3 * loss + dice.random(), batch_size=64)
            time.sleep(0.3)
        with _screenshot(window, pictures / "first_epoch_running.png"):
            window.open(f"{page}/model-metrics{WORKFLOW}")
            window.wait_for("live", "loss", "samples_per_sec", "an hour's epoch")
            window.wait_until_true(
                "[...document.querySelectorAll('.js-plotly-plot')].filter("
                f"chart => chart.data[0].x.length >= {LIVE_POINTS}).length == 4"
            )
            window.run("document.querySelectorAll('.modebar').forEach(bar => bar.remove())")  # it covers the lines
        metrics = MlflowClient(server_uri).get_run(str(tracker.run_id))
        assert (metrics.info.status, "loss_mean" in metrics.data.metrics) == ("RUNNING", False)
        tracker.end_epoch()


@contextmanager
def _screenshot(window: Browser, path: Path) -> Iterator[None]:
    """Keep what the window shows at the end, be it right or wrong."""
    try:
        yield
    finally:
        window.screenshot(path)


def _check_run_page(window: Browser, link: str) -> None:
    """Under "Model training": the description with its picture and links, few tags, the data set."""
    window.open(link)
    window.wait_for(
        "better", "Finished", "Best loss", "summary/best_loss", "sample/accuracy", "optim.lr", "0.001", "toy"
    )
    text = window.text()

    assert "Model registry" in text  # of this view: the GenAI view has another menu
    assert "Prompts" not in text.split("Overview")[0]
    assert not {"note_digest", "run_key", "<!--"} & set(text.replace(":", " ").split())
    _close_assistant(window)
    window.wait_until_true(
        "[...document.images].some(i => i.src.includes('metrics/preview.png') && i.naturalWidth >= 300)"
    )
    window.click("Show more")
    window.wait_until_true(_link_to("Report", "artifacts/metrics/training_report.html?workflowType=machine_learning"))
    window.wait_until_true(_link_to("Dashboard", "metrics/training_dashboard.png?workflowType=machine_learning"))


def _close_assistant(window: Browser) -> None:
    """Newer servers open a panel at the side, which has nothing of the run."""
    window.run("document.querySelector('[aria-label*=\"Close\" i]')?.click()")


def _link_to(text: str, end: str) -> str:
    return f"[...document.links].some(a => a.innerText == {json.dumps(text)} && a.href.endsWith({json.dumps(end)}))"


def _check_charts(window: Browser, url: str) -> None:
    """A section for each group of metrics, and a line through all epochs."""
    window.open(url)
    window.wait_for("loss_t", "sample", "summary", "best_loss", "Model metrics")
    window.wait_until_true(
        f"[...document.querySelectorAll('.js-plotly-plot')].some(chart => chart.data[0].x.length == {EPOCHS})"
    )


def _check_runs_table(window: Browser, url: str) -> None:
    """Sorted by the best loss, lowest first, with the data set of each run."""
    window.open(f"{url}&orderByKey={quote('metrics.`summary/best_loss`')}&orderByAsc=true")
    window.wait_for("Sort: summary/best_loss", "better", "worse")
    window.wait_until_true("document.body.innerText.split('toy (0123abcd)').length > 2")
    text = window.text()

    assert text.index("better") < text.index("worse")


def _check_comparison(window: Browser, uri: str, run_ids: list[str]) -> None:
    """Two runs beside each other: names, params and metrics of both."""
    runs, experiments = quote(json.dumps(run_ids)), quote(json.dumps(["0"]))
    window.open(f"{uri}/#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning")
    text = window.wait_for("Comparing 2 Runs", "better", "worse", "optim.lr", "0.0003", "loss_mean")

    assert "unknown" not in text


def _check_html_report(window: Browser, url: str) -> None:
    """In the viewer's own frame, with all pictures, since none is a file beside it."""
    window.open(url)
    window.wait_for("training_report.html", "training_dashboard.png")
    window.enter_frame("iframe[src^='blob:']")
    text = window.wait_for("better", "Best loss", *(plot.title for plot in PLOTS))
    window.wait_until_true(f"document.images.length >= {len(PLOTS)}")
    window.wait_until_true("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    # Some frames later it is painted, too, and the screenshot shows it.
    window.wait_until_true("(window.frames_seen ??= 0, requestAnimationFrame(() => frames_seen++), frames_seen > 3)")
    window.leave_frame()

    assert "undefined" not in text


def _check_markdown_report(window: Browser, url: str) -> None:
    """As text with headings and tables; pictures beside a Markdown file are what the viewer does not resolve."""
    window.open(url)
    window.wait_for("Hyperparameters", "Best loss")
    window.wait_until_true("[...document.querySelectorAll('h2')].some(head => head.innerText == 'Summary')")
    window.wait_until_true("document.querySelectorAll('table, [role=table]').length >= 3")


def _check_picture(window: Browser, url: str, file: Path) -> None:
    """Whole, in the size of the file."""
    with Image.open(file) as image:
        width, height = image.size
    window.open(url)
    window.wait_until_true(
        f"[...document.images].some(image => image.naturalWidth == {width} && image.naturalHeight == {height})"
    )
