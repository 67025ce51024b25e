"""Files of a stranger end in one clear line, or are read; never in much memory, and never elsewhere on the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mlflow_ddpm import MirrorError, generate_report
from mlflow_ddpm.analysis.history import load_history

ROW = {"epoch": 0, "logged_at_ms": 1, "loss_mean": 1.0}


def _document(**parts: Any) -> str:
    return json.dumps({"schema_version": 1, "run": {}, "config": {}, "environment": {}, "epochs": [ROW]} | parts)


WRONG = {
    "a run that is a list": _document(run=[1]),
    "a config that is a number": _document(config=3),
    "an epoch beyond all numbers": _document(epochs=[ROW | {"epoch": 10**25}]),
    "a loss in words": _document(epochs=[ROW | {"loss_mean": "x"}]),
    "a hundred levels": _document(config={"a": json.loads("[" * 100 + "]" * 100)}),
    "ten million lists": "[" + "[]," * 6_000_000 + "[]]",
}
ODD = {
    "names and ids of other types": {"run_name": ["x"], "run_id": 7, "experiment_name": {"a": 1}},
    "times beyond the calendar": {"start_time_ms": 10**30},
    "times before it": {"start_time_ms": -5},
    "resumes in words": {"resumed_at_epochs": "12"},
    "resumes of other types": {"resumed_at_epochs": [True, "1", 3]},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_json_of_wrong_content_is_refused_in_one_line(name: str) -> None:
    """Before it takes much memory."""
    Path("training_metrics.json").write_text(WRONG[name])
    with pytest.raises(MirrorError) as refused:
        load_history(Path())
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ODD)
def test_odd_facts_of_a_run_are_shown_or_left_out(name: str) -> None:
    """The rows are right all the same."""
    Path("training_metrics.json").write_text(_document(run=ODD[name]))

    assert generate_report(Path(), save_dir="report").stat().st_size


def test_a_csv_of_too_many_columns_is_refused() -> None:
    """No run of ours has so many."""
    columns = 100_000
    text = "epoch," + ",".join(f"c{i}" for i in range(columns)) + "\n0" + ",1" * columns + "\n"
    Path("training_metrics.csv").write_text(text)
    with pytest.raises(MirrorError, match="100,001 columns; at most 10,000"):
        load_history(Path())


@pytest.mark.parametrize("name", ["training_metrics.csv", "training_metrics.json"])
def test_links_pipes_and_folders_are_no_history(name: str) -> None:
    """A link may lead to a private file or to a device without end; a pipe would be waited for."""
    for kind, make in (("link", lambda p: p.symlink_to("/dev/zero")), ("pipe", os.mkfifo), ("folder", Path.mkdir)):
        Path(kind).mkdir()
        make(Path(kind, name))
        with pytest.raises(MirrorError, match=r"symbolic link|no plain file"):
            load_history(kind)
