"""Families of runs: a sweep by Optuna, the tasks of an array, a run with two trackers, and more runs than lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from support.common import ROOT

from mlflow_ddpm import MetricsTracker, compare_runs
from mlflow_ddpm.cli.main import main
from mlflow_ddpm.core.errors import UsageError

DOCS = (ROOT / "docs/sweeps.md").read_text("utf-8")
OPTUNA, ARRAY = re.findall(r"^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
DESCRIPTION = "mlflow.note.content"


def train(tracker: MetricsTracker, config: Mapping[str, Any], *, epochs: int = 2) -> float:
    """Stand in for a training loop; return the last loss."""
    loss = 0.0
    for epoch in range(epochs):
        tracker.start_epoch(epoch)
        loss = float(config["lr"]) + config.get("seed", 0) / 10 + 1 / (epoch + 1)
        tracker.log_batch(loss, lr=config["lr"])
        tracker.end_epoch()
    return loss


def cells(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def logged(client: MlflowClient, run_id: str) -> set[str]:
    """Return the names in the run's artifact folder of comparisons."""
    return {Path(file.path).name for file in client.list_artifacts(run_id, "comparison")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::Warning:optuna.*")
def test_the_optuna_example_of_the_docs_makes_a_family_and_compares_it(sqlite_uri: str) -> None:
    """Eight trials are eight FINISHED runs below the sweep, whose description begins with the best of them."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names: dict[str, Any] = {"train": train}
    exec(compile(OPTUNA, "sweeps.md", "exec"), names)  # noqa: S102 - the page's own code

    client, parent = MlflowClient(sqlite_uri), names["parent"].info.run_id
    children = client.search_runs(["0"], f"tags.`mlflow.parentRunId` = '{parent}'")
    results = cells(Path("sweep/comparison/comparison_summary.csv"))
    best = min(children, key=lambda run: run.data.metrics["loss_mean"])
    description = client.get_run(parent).data.tags[DESCRIPTION]
    assert [run.info.status for run in children] == ["FINISHED"] * 8
    assert {row["run_id"] for row in results} == {run.info.run_id for run in children}
    assert len({run.data.params["lr"] for run in children}) == 8
    assert {path.name for path in Path("sweep/comparison").iterdir()} == logged(client, parent)
    comparison = description.partition("<!-- mlflow_ddpm comparison -->\n\n")[2]
    assert comparison.startswith("**8 runs below this one.** Lowest mean loss of an epoch: ")
    assert str(best.info.run_name) in description.partition(" at epoch ")[0]
    assert f"/runs/{parent}/artifacts/comparison/comparison.md?workflowType=machine_learning) are" in comparison
    table = [line for line in description.splitlines() if line.startswith("| ")]
    assert str(best.info.run_name) in table[2]  # after head and rule


@pytest.mark.slow
def test_the_array_example_of_the_docs_makes_a_run_below_the_parent_in_each_task(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tasks' seeds are repeats of one setting: one line with a band, and one row of numbers."""
    client = MlflowClient(sqlite_uri)
    parent = client.create_run("0", run_name="seeds").info.run_id
    monkeypatch.setenv("PARENT", parent)
    for task in range(3):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        exec(compile(ARRAY, "sweeps.md", "exec"), {"train": train})  # noqa: S102 - the page's own code
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")

    assert main(["compare", "--parent", parent, "--group-by", "lr", "--output-dir", "all"]) == 0

    (setting,) = cells(Path("all/comparison_groups.csv"))
    assert (setting["setting"], setting["runs"]) == ("lr = 0.001", "3")
    low, mean, high = (float(setting[f"best_loss_{kind}"]) for kind in ("min", "mean", "max"))
    assert (low, mean, high) == pytest.approx((0.501, 0.601, 0.701))
    assert {"comparison.md", "comparison_groups.tex", "training_dashboard.png"} <= logged(client, parent)
    assert "seed 0: 2 epochs, best loss 0.501 at epoch 1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_with_two_trackers_is_compared_with_its_child(sqlite_uri: str) -> None:
    """As of a GAN: the first tracker has the run itself, the second a run below it."""
    with mlflow.start_run() as run:
        for name in ("generator", "critic"):
            with MetricsTracker(name, config={"lr": 0.1, "network": name}) as tracker:
                train(tracker, {"lr": 0.1 if name == "critic" else 0.2})

    made = compare_runs(parent=run.info.run_id, save_dir="both")

    description = MlflowClient(sqlite_uri).get_run(run.info.run_id).data.tags[DESCRIPTION]
    assert made.runs[0].run_id == run.info.run_id
    assert [compared.config["network"] for compared in made.runs] == ["generator", "critic"]
    assert description.startswith("**2 epochs")  # the run's own result, which the comparison has not replaced
    assert "**1 run below this one, and itself.**" in description


@pytest.mark.slow
def test_of_more_runs_than_lines_the_pictures_show_the_best_and_the_tables_all(sqlite_uri: str) -> None:
    """Also those that failed before their first epoch; runs that are named one by one are refused as before."""
    parent = MlflowClient(sqlite_uri).create_run("0").info.run_id
    for number in range(17):
        config = {"lr": 1.0 - number / 20, "width": 8}
        with MetricsTracker(
            f"r{number}", config=config, run_name=f"r{number}", tags={"mlflow.parentRunId": parent}
        ) as tracker:
            train(tracker, config, epochs=0 if number == 16 else 1)

    made = compare_runs(parent=parent, save_dir="all", formats=("svg",))

    page = Path("all/comparison.md").read_text("utf-8")
    assert "The pictures show the 14 runs of the lowest loss; the tables have all 17." in page
    assert [row["run"] for row in cells(Path("all/comparison_summary.csv"))] == [f"r{i}" for i in range(17)]
    settings = cells(Path("all/comparison_hyperparameters.csv"))
    assert list(settings[0]) == ["run", "lr"]
    assert [row["run"] for row in settings] == [f"r{i}" for i in range(17)]
    drawn = Path("all/loss_linear.svg").read_text("utf-8")
    names = {name for name in re.findall(r"\br\d+\b", drawn) if name in {run.name for run in made.runs}}
    assert names == {f"r{i}" for i in range(2, 16)}
    with pytest.raises(UsageError, match="takes 14 runs at most, got 17"):
        compare_runs([f"r{i}" for i in range(17)], save_dir="named")
