"""A run by its id, by the first letters of it, or as the newest."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_ddpm.core.errors import HistoryError, RunMissingError, StoreRefusedError, UsageError
from mlflow_ddpm.storage.run_search import child_runs, find_run, newest_run, run_id_of

ID = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("source", "run_id"),
    [
        *((ID, ID), (f"runs:/{ID}", ID), (f"runs:///{ID}/", ID), ("0a1b", "0a1b"), ("0a1", None)),
        *(
            (f"runs:/{ID}/model", ID),
            ("runs:/0a1b/model/", "0a1b"),
            (f"runs:/{ID}/metrics", None),
            (f"{ID}/model", None),
        ),
        *(("../etc/passwd", None), ("out", None), (Path(ID), None)),
    ],
)
def test_what_may_be_a_run_id(source: str | Path, run_id: str | None) -> None:
    """A path never is one, nor are three letters."""
    assert run_id_of(source) == run_id


def test_the_first_letters_of_an_id_are_enough_while_they_fit_one_run(sqlite_uri: str) -> None:
    """No run, and what is neither a file nor an id, are two errors."""
    run_id = MlflowClient(sqlite_uri).create_run("0").info.run_id

    assert find_run(run_id[:6]).run_id == run_id
    with pytest.raises(RunMissingError, match="has no run whose id"):
        find_run("f" * 30 if run_id[0] != "f" else "0" * 30)
    with pytest.raises(HistoryError, match="no such file or directory"):
        find_run("./not-there.csv")


def test_a_model_names_its_run(sqlite_uri: str) -> None:
    """A logged one by its id, a registered one by version, alias or as the latest; one of no run is refused."""
    client = MlflowClient(sqlite_uri)
    run_id = client.create_run("0").info.run_id
    logged = client.create_logged_model("0", source_run_id=run_id).model_id
    client.create_registered_model("digits")
    for run in (None, run_id):
        client.create_model_version("digits", "somewhere", run_id=run)
    client.set_registered_model_alias("digits", "best", "2")

    for source in (f"models:/{logged}", "models:/digits/2", "models:/digits@best", "models:/digits/latest"):
        assert find_run(source).run_id == run_id
    with pytest.raises(HistoryError, match="models:/digits/1 is of no run"):
        find_run("models:/digits/1")
    for missing in ("digits/3", "digits@none", "letters/1", "m-0", "a/b/c", "digits/Production"):
        with pytest.raises(StoreRefusedError):
            find_run(f"models:/{missing}")


def test_the_newest_run_is_one_with_epochs_of_ours_and_children_are_bounded(sqlite_uri: str) -> None:
    """Whatever else was logged since."""
    client = MlflowClient(sqlite_uri)
    with pytest.raises(HistoryError, match="no run of mlflow_ddpm"):
        newest_run()
    ours = client.create_run("0", start_time=1000).info.run_id
    client.log_metric(ours, "epoch_time_sec", 1.0)
    children = [
        client.create_run("0", start_time=t, tags={"mlflow.parentRunId": ours}).info.run_id for t in (2000, 3000)
    ]

    assert newest_run().run_id == ours
    assert [run.run_id for run in child_runs(newest_run(), at_most=2)] == children
    with pytest.raises(UsageError, match="more than 1 child runs"):
        child_runs(newest_run(), at_most=1)
