"""Runs are named by id, first letters or directory; no copy is replaced by an emptier one, and no link is followed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from support.common import slow

from mlflow_ddpm import (
    HistoryError,
    MetricsTracker,
    MirrorError,
    StoreError,
    UsageError,
    compare_runs,
    download_run,
    publish_run,
    read_history,
)
from mlflow_ddpm.cli.main import main
from mlflow_ddpm.storage.run_search import find_run, newest_run

pytestmark = pytest.mark.usefixtures("one_plot")
DEEP = '{"run": ' * 90 + "1" + "}" * 90


def _record(directory: str, *, epochs: int = 3, **options: object) -> MetricsTracker:
    with MetricsTracker(directory, **options) as tracker:  # type: ignore[arg-type]
        for epoch in range(epochs):
            tracker.start_epoch(epoch)
            tracker.log_batch(1.0 / (epoch + 1), lr=0.1, batch_size=8)
            tracker.end_epoch()
        tracker.log_image("samples", np.full((8, 8), 7, dtype=np.uint8), epoch=0)
    return tracker


def _files(directory: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


@pytest.mark.usefixtures("sqlite_uri")
def test_a_run_is_named_by_its_first_letters_or_as_the_newest(capsys: pytest.CaptureFixture[str]) -> None:
    """Letters that fit no run, or too few of them, are refused."""
    first, last = (str(_record(name).run_id) for name in ("a", "b"))

    assert find_run(first[:12]).run_id == first == find_run(f"runs:/{first[:12]}").run_id
    assert newest_run().run_id == last
    assert read_history(first[:12]).equals(read_history("a"))
    with pytest.raises(StoreError, match="no run whose id is, or begins with, 0000"):
        read_history("0000")
    with pytest.raises(HistoryError, match="no such file or directory: abc"):
        read_history("abc")
    assert main(["history", "--last", "--format", "csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["history"]) == 2
    assert "expected either RUN or --last" in capsys.readouterr().err


def test_a_directory_names_its_run(sqlite_uri: str) -> None:
    """Publishing renders into it; downloading goes elsewhere. A CSV by itself names none."""
    run_id = str(_record("out").run_id)
    Path("bare").mkdir()
    shutil.copy("out/training_metrics.csv", "bare")

    assert publish_run("out")[:2] == (run_id, Path("out"))
    assert download_run("out", "fetched").run_id == run_id
    assert publish_run("fetched")[:2] == (run_id, Path("fetched"))
    with pytest.raises(HistoryError, match="bare names no run"):
        publish_run("bare")


def test_a_run_that_still_trains_can_be_published_and_downloaded(sqlite_uri: str) -> None:
    """Its own directory is left to the live process."""
    with MetricsTracker("out") as tracker:
        tracker.start_epoch(0)
        tracker.log_batch(1.0)
        tracker.end_epoch()
        tracker.flush()
        assert download_run(str(tracker.run_id), "early").files
        published = publish_run("out")

        assert published.output_dir == Path(f"metrics-{str(tracker.run_id)[:8]}")
        assert Path("metrics-" + str(tracker.run_id)[:8], "training_report.md").exists()


@pytest.mark.parametrize("kept", [slow("training_metrics.csv"), "training_metrics.json"])
def test_a_fuller_copy_is_not_replaced_by_an_emptier_one(sqlite_uri: str, kept: str) -> None:
    """Copies are compared by their epochs, those of the CSV and those of the JSON. Nothing is written."""
    run_id = str(_record("out", epochs=2).run_id)
    publish_run(run_id, output_dir="made")
    shutil.copytree("made", "fuller")
    with Path("fuller/training_metrics.csv").open("a") as table:
        head, *_, last = Path("made/training_metrics.csv").read_text().splitlines()
        cells = dict(zip(head.split(","), last.split(","), strict=True))
        table.write(
            ",".join({**cells, "epoch": "7", "logged_at_ms": str(int(cells["logged_at_ms"]) + 1)}.values()) + "\n"
        )
    document = json.loads(Path("made/training_metrics.json").read_text())
    document["epochs"].append({**document["epochs"][-1], "epoch": 7, "logged_at_ms": 9_999_999_999_999})
    Path("fuller/training_metrics.json").write_text(json.dumps(document))
    for name in {"training_metrics.csv", "training_metrics.json"} - {kept}:
        Path("fuller", name).unlink()
    if kept.endswith("csv"):
        Path("fuller/training_metrics.json").unlink(missing_ok=True)
    shutil.rmtree("fuller/samples")
    before = _files("fuller")

    with pytest.raises(UsageError, match="fuller has 1 row not yet in MLflow"):
        publish_run(run_id, output_dir="fuller")
    with pytest.raises(UsageError, match="fuller has 1 row that"):
        download_run(run_id, "fuller")
    assert before == _files("fuller")
    assert not [path for path in Path("fuller").iterdir() if path.name.startswith(".")]


def test_links_are_not_followed(sqlite_uri: str, tmp_path: Path) -> None:
    """Neither a folder, nor a picture, nor the history itself; the private file stays private."""
    run_id = str(_record("out").run_id)
    (tmp_path / "private").mkdir()
    secret = tmp_path / "private" / "key.png"
    secret.write_bytes(b"TOP SECRET")
    for name, target in (("samples", secret.parent), ("training_metrics.csv", secret)):
        Path(f"trap-{name}").mkdir()
        Path(f"trap-{name}", name).symlink_to(target)
        with pytest.raises(MirrorError, match="symbolic link"):
            publish_run(run_id, output_dir=f"trap-{name}")
    Path("album/samples").mkdir(parents=True)
    Path("album/samples/samples_epoch_000009.png").symlink_to(secret)
    published = publish_run(run_id, output_dir="album")
    with pytest.raises(MirrorError, match="symbolic link"):
        download_run(run_id, "trap-samples")

    assert not [path for path in published.files if b"TOP SECRET" in path.read_bytes()]
    assert b"VE9QIFNFQ1JFVA" not in Path("album/training_report.html").read_bytes()
    assert [path.name for path in secret.parent.iterdir()] == ["key.png"]


def test_links_and_hidden_files_in_a_store_are_not_brought_here(sqlite_uri: str, tmp_path: Path) -> None:
    """A store on this machine may be a stranger's directory."""
    run_id = str(_record("out").run_id)
    publish_run(run_id, output_dir="made")
    root = Path(MlflowClient(sqlite_uri).get_run(run_id).info.artifact_uri.removeprefix("file://")) / "metrics"
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("TOP SECRET")
    (root / "link.txt").symlink_to(tmp_path / "private" / "key")
    (root / "folder").symlink_to(tmp_path / "private")
    (root / ".bashrc").write_text("evil")
    download_run(run_id, "fetched")

    assert not {"link.txt", "folder", ".bashrc"} & {path.name for path in Path("fetched").iterdir()}
    assert Path("fetched/samples/samples_epoch_000000.png").is_file()


def test_pictures_that_are_here_are_not_fetched_again(sqlite_uri: str) -> None:
    """Those of the same name and size stay as they are."""
    run_id = str(_record("out").run_id)
    publish_run(run_id, output_dir="made")
    picture = Path("made/samples/samples_epoch_000000.png")
    before = picture.stat()
    publish_run(run_id, output_dir="made")
    download_run(run_id, "made")

    assert picture.stat().st_ino == before.st_ino
    assert picture.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize(
    "damage",
    ["{", slow("[]"), slow('{"schema_version": 1}'), slow("[" * 100_000), slow(DEEP)],
)
def test_a_damaged_json_beside_a_whole_csv_stops_nobody(sqlite_uri: str, damage: str) -> None:
    """The CSV is complete without it: for history, comparison and report."""
    _record("a")
    _record("b", epochs=2)
    Path("a/training_metrics.json").write_text(damage)

    assert len(read_history("a")) == 3
    assert len(compare_runs(["a", "b"], save_dir="both").runs) == 2


def test_children_of_a_parent_are_compared_in_its_artifacts_and_description(sqlite_uri: str) -> None:
    """Repeats of one setting are put together."""
    client = MlflowClient(sqlite_uri)
    parent = client.create_run("0").info.run_id
    for seed in range(2):
        for lr in (0.1, 0.2):
            tracker = _record(f"r{seed}{lr}", run_name=f"lr {lr} seed {seed}", config={"lr": lr, "seed": seed})
            client.set_tag(str(tracker.run_id), "mlflow.parentRunId", parent)
    made = compare_runs(parent=parent, group_by="lr", save_dir="all")

    assert len(made.runs) == 4
    logged = {Path(file.path).name for file in client.list_artifacts(parent, "comparison")}
    assert {path.name for path in made.files} == logged
    assert {"comparison.md", "comparison_groups.csv", "loss_linear.png"} <= logged
    assert Path("all/comparison_groups.csv").read_text().splitlines()[1].startswith("lr = 0.1,2,")
    assert "\n**4 runs below this one.**" in client.get_run(parent).data.tags["mlflow.note.content"]
    with pytest.raises(UsageError, match="no run has the hyperparameter 'decay'; there are lr, seed"):
        compare_runs(parent=parent, group_by="decay", save_dir="none")
    with pytest.raises(UsageError, match="has 0 runs below it"):
        compare_runs(parent=made.runs[0].run_id, save_dir="none")
    assert mlflow.active_run() is None
