"""The JSON document: strict for every parser, whole at any instant, read back to the last bit."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from support.histories import healthy_row

from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.json_file import JsonWriter, RunDocument, read_document, render_document


def _document(rows: list[EpochMetrics]) -> bytes:
    return render_document(RunDocument({"run_id": "abc"}, {"lr": 0.1}, {}, rows))


def test_a_document_is_strict_json_and_reads_back_as_it_was(tmp_path: Path) -> None:
    """NaN and infinities are texts in it."""
    rows = [replace(healthy_row(0), loss_max=math.inf, lr=None, extra={"fid": 2.0}), healthy_row(1)]
    path = tmp_path / "training_metrics.json"
    path.write_bytes(_document(rows))
    document = read_document(path)

    assert json.loads(path.read_bytes(), parse_constant=pytest.fail)["epochs"][0]["loss_max"] == "Infinity"
    assert [repr(row.values()) for row in document.rows] == [repr(row.values()) for row in rows]
    assert (document.run, document.config) == ({"run_id": "abc"}, {"lr": 0.1})
    assert read_document(path, with_rows=False).rows == []


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1},
        {"epoch": 0.5},
        {"epoch": True},
        {"logged_at_ms": None},
        {"lr": "much"},
        {"lr": [1]},
        {"bad@name": 1.0},
    ],
    ids=str,
)
def test_a_row_that_is_none_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    """In one line that names the file."""
    document = json.loads(_document([healthy_row(0)]))
    document["epochs"][0] |= change
    path = tmp_path / "training_metrics.json"
    path.write_text(json.dumps(document))

    with pytest.raises(MirrorError, match=r"is not a training_metrics\.json"):
        read_document(path)


def test_a_writer_writes_the_newest_content_and_knows_what_it_holds(tmp_path: Path) -> None:
    """On its own thread, or at once; nothing where the directory is no longer ours."""
    revisions, is_ours = iter(range(100)), threading.Event()
    is_ours.set()
    written = threading.Event()
    rows = [healthy_row(0)]
    writer = JsonWriter(
        tmp_path / "training_metrics.json",
        lambda: (next(revisions), _document(rows)),
        is_ours.is_set,
        lambda _: written.set(),
    )
    writer.request()
    assert written.wait(30)
    writer.write_now(timeout=30)
    assert writer.holds(1)
    is_ours.clear()
    writer.write_now(timeout=30)
    assert not writer.holds(2)
    writer.stop()


def test_the_end_comes_although_an_interrupt_left_the_lock_taken(tmp_path: Path) -> None:
    """Ctrl-C can come right after a lock is taken, before its ``try`` begins."""
    writer = JsonWriter(tmp_path / "training_metrics.json", lambda: (0, _document([])), lambda: True, lambda _: None)

    def interrupted() -> None:
        writer._writing.acquire()
        writer.stop()

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
