"""The HTML twin: one valid page, pictures inside, nothing to load, nothing that foreign text could open."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from support.unhealthy_runs import sick_run

from mlflow_ddpm import MetricsTracker
from mlflow_ddpm.analysis.frame import frame_from_rows
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.report import generate_report
from mlflow_ddpm.reporting.context import ReportContext, ReportFigure, build_context
from mlflow_ddpm.reporting.manifest import OutputFile
from mlflow_ddpm.reporting.rendering import render_html, render_markdown

VOID = {"meta", "img", "br"}
PIXEL = bytes.fromhex("89504e470d0a1a0a") + b"picture"
HOSTILE = "</td></table><script>alert(1)</script>\"'>&lt;|`*_[x](y)\n---\n# {{ 7 * 7 }} \u202e\x00"


@dataclass
class Page(HTMLParser):
    """What a browser would make of a page: its tags, which must close in order, its attributes and its text."""

    text: str
    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Read the page."""
        super().__init__(convert_charrefs=True)
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the tag that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text that shows."""
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    def values(self, tag: str, attribute: str) -> list[str]:
        """Return an attribute of every tag of a kind."""
        return [value for t, name, value in self.attributes if (t, name) == (tag, attribute)]


def context_of(rows: list[EpochMetrics], **parts: Any) -> ReportContext:
    """Return a report's content without touching the disk."""
    facts = {name: parts.pop(name, {}) for name in ("config", "run", "environment")}
    empty: dict[str, Any] = {"figures": {}, "samples": [], "files": []}
    return build_context(RunHistory(rows=tuple(rows), **facts), **(empty | parts))


def page_of(rows: list[EpochMetrics], **parts: Any) -> Page:
    """Return the page of a report."""
    return Page(render_html(context_of(rows, **parts), lambda _link: PIXEL))


def row(epoch: int, **values: Any) -> EpochMetrics:
    """Return a row with a loss."""
    return EpochMetrics(epoch=epoch, **({"loss_mean": 1 / (epoch + 1)} | values))


def write(save_dir: Path, rows: list[EpochMetrics]) -> str:
    """Return the text of the page that lies beside a report."""
    save_dir.mkdir(parents=True, exist_ok=True)
    for plot in PLOTS:
        (save_dir / f"{plot.name}.png").write_bytes(PIXEL + plot.name.encode())
    generate_report(frame_from_rows(rows), save_dir=save_dir, config={"a": 1}, run={"run_name": "owl"})
    return (save_dir / "training_report.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    """Eleven pictures inside, no script, no link, no style sheet, no font from elsewhere."""
    page = Page(write(tmp_path, [row(0), row(1)]))
    pictures = page.values("img", "src")

    assert len(pictures) == 11
    for source in pictures:
        kind, content = source.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content, validate=True).startswith(PIXEL)
    assert not {"script", "link", "iframe", "a", "form", "object"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", page.text)


def test_the_page_says_what_the_markdown_says() -> None:
    """Title, summary, findings, readings, config, environment, metrics: every cell and sentence is in both."""
    run = sick_run("divergence", 0)
    figures = {
        plot.name: ReportFigure(title=plot.title, link=f"{plot.name}.png", caption=plot.caption) for plot in PLOTS
    }
    context = context_of(run.rows, config={"optim": {"lr": 0.1}}, environment={"device": "cpu"}, figures=figures)
    page = " ".join(" ".join(Page(render_html(context, lambda _: PIXEL)).words).split())
    markdown = html.unescape(render_markdown(context).replace("`", "").replace("\\", ""))

    cells = [
        cell for table in (context.summary, context.manifest, context.epochs) if table for r in table.rows for cell in r
    ]
    sentences = [figure.reading for figure in context.figures] + [finding.sentence for finding in context.findings]
    assert context.findings
    for text in (context.title, context.lead, *cells, *sentences):
        assert str(text) in page
        assert str(text) in markdown


def test_light_and_dark_are_the_readers_choice() -> None:
    """By the browser's own setting, without a script."""
    page = page_of([row(0)])

    assert "prefers-color-scheme: dark" in page.text
    assert ("meta", "content", "light dark") in page.attributes


def test_every_picture_has_words_and_every_row_its_cells() -> None:
    """For readers who cannot see the pictures, and for tables that hold together."""
    figure = ReportFigure(title="Loss", link="loss_log.png", caption="How to read it.")
    page = page_of([row(e, extra={"fid": 1.5}) for e in range(3)], figures={"loss_log": figure})

    assert page.values("img", "alt") == ["Loss"]
    assert set(page.rows) == {3, 4}  # summary; manifest and legend, and four measured columns
    assert page.values("html", "lang") == ["en"]


def test_the_same_inputs_give_the_same_bytes_in_any_directory(tmp_path: Path) -> None:
    """No clock and no path in it."""
    texts = {write(tmp_path / name, [row(0), row(1)]) for name in ("a", "b/c", "a")}

    assert len(texts) == 1
    assert str(tmp_path) not in texts.pop()


@pytest.mark.parametrize("rows", [[], [EpochMetrics(epoch=4)], [row(0, loss_mean=float("nan"))]])
def test_a_run_with_hardly_anything_in_it_makes_a_page(rows: list[EpochMetrics]) -> None:
    """No epoch, no metric, no finite number."""
    assert "h1" in page_of(rows).tags


def test_a_thinned_table_says_so() -> None:
    """A reader must not take the shown epochs for all."""
    page = page_of([row(epoch) for epoch in range(1200)])

    assert "of 1200 epochs, evenly spaced" in " ".join(page.words)
    assert len(page.rows) < 1100


TEXT = st.text(st.characters(exclude_categories=[]), max_size=40) | st.sampled_from(
    [HOSTILE, "|", "<b>", "</title>", "-->", "]]>", "\ud800", "'onerror='x", "&amp;", "`", "---", "\n\n# x", "$x$"]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.floats() | TEXT,
    lambda s: st.lists(s, max_size=3) | st.dictionaries(TEXT, s, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(
    name=TEXT, config=st.dictionaries(TEXT, VALUE, max_size=4), place=st.dictionaries(TEXT, TEXT, max_size=3), link=TEXT
)
@example(name=HOSTILE, config={HOSTILE: [HOSTILE]}, place={HOSTILE: HOSTILE}, link=HOSTILE)
def test_no_foreign_text_opens_a_tag_or_breaks_a_table(
    name: str, config: dict[str, Any], place: dict[str, str], link: str
) -> None:
    """Run name, config, environment, extras and file names, in the page and in the Markdown, are text."""
    parts: dict[str, Any] = {
        "run": {"run_name": name, **place},
        "environment": place,
        "samples": [OutputFile(link=f"samples/{link}.png", about="Generated samples", size=1, sha256=name)],
    }
    harmless = page_of(
        [row(0, extra={"x": 1.0})], config={"a": 1}, **{**parts, "run": {"run_name": "n"}, "environment": {}}
    )
    page = page_of([row(0, extra={name: 1.0})], config={"data": {"name": name}, **config}, **parts)
    markdown = render_markdown(
        context_of([row(0, extra={name: 1.0})], config={"data": {"name": name}, **config}, **parts)
    )
    body = markdown.split("\n---\n", 1)[1]
    prose = re.sub(r"^(`{3,})json\n.*?\n\1$", "", body, flags=re.DOTALL | re.MULTILINE)

    assert set(page.tags) <= set(harmless.tags) | {"code", "table", "div"}
    assert page.tags.count("img") == 1
    assert {attribute for _, attribute, _ in page.attributes} == {attribute for _, attribute, _ in harmless.attributes}
    assert "<" not in prose
    assert prose.count("![") == 1
    assert markdown.count("\n---\n") == 1
    for table in re.findall(r"(?:^\|.*\n?)+", prose, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.strip().split("\n")}) == 1
    page.text.encode()
    markdown.encode()


def test_a_tracker_logs_the_page_beside_the_markdown(sqlite_uri: str) -> None:
    """The same bytes as on disk, where MLflow's artifact viewer finds them."""
    with MetricsTracker("out", tracking_uri=sqlite_uri) as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(1.0)
        tracker.end_epoch()
        generate_report(tracker, save_dir="out")
    logged = MlflowClient(sqlite_uri).download_artifacts(str(tracker.run_id), "metrics/training_report.html")

    assert Path(logged).read_bytes() == Path("out/training_report.html").read_bytes()


def test_the_manifest_lists_both_forms_without_a_checksum(tmp_path: Path) -> None:
    """Neither can hold the other's; the pictures' are there."""
    write(tmp_path, [row(0)])
    text = " ".join(Page(write(tmp_path, [row(0)])).words)

    assert hashlib.sha256((tmp_path / "loss_log.png").read_bytes()).hexdigest() in text
    for name in ("training_report.md", "training_report.html"):
        assert name in text
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() not in text
