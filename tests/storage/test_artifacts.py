"""A run's artifacts, listed and fetched from real stores: what is there, where it goes, and how much is taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_ddpm.core.errors import MirrorError
from mlflow_ddpm.storage.artifacts import Artifact, Artifacts
from mlflow_ddpm.storage.mlflow_run import MlflowRun

CONTENT = {"metrics/a.txt": b"a", "metrics/samples/b.bin": b"bb" * 500, "other/c.txt": b"ccc", "metrics/.hidden": b"d"}


def run_with_files(uri: str) -> MlflowRun:
    """A run that has the files above."""
    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    for name, content in CONTENT.items():
        path = Path("made") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        client.log_artifact(run_id, str(path), str(Path(name).parent))
    return MlflowRun(uri, run_id)


def test_a_folders_files_are_listed_with_sizes_and_fetched_below_a_directory(store_uri: str, tmp_path: Path) -> None:
    """Those of its folders on request alone; hidden ones never."""
    artifacts = Artifacts(run_with_files(store_uri))
    deep = sorted(artifacts.find("metrics", is_deep=True))

    paths = artifacts.fetch(deep, tmp_path / "into")

    assert artifacts.find("metrics") == [Artifact("metrics/a.txt", 1)]
    assert deep == [Artifact("metrics/a.txt", 1), Artifact("metrics/samples/b.bin", 1000)]
    assert [path.read_bytes() for path in paths] == [CONTENT[artifact.path] for artifact in deep]
    assert paths == [tmp_path / "into" / artifact.path for artifact in deep]
    assert artifacts.find("nothing") == []


def test_more_bytes_than_expected_are_not_fetched(store_uri: str, tmp_path: Path) -> None:
    """The message names MLflow's own command."""
    artifacts = Artifacts(run_with_files(store_uri), max_bytes=100)

    with pytest.raises(MirrorError, match=r"more than 0 GiB; fetch them with `mlflow artifacts download"):
        artifacts.fetch(artifacts.find("metrics/samples"), tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_links_in_a_store_on_this_machine_are_left_out(store_uri: str, tmp_path: Path) -> None:
    """A file elsewhere is not brought here by one."""
    run = run_with_files(store_uri)
    root = Path(MlflowClient(store_uri).get_run(run.run_id).info.artifact_uri.removeprefix("file://"))
    (tmp_path / "secret.txt").write_text("secret", encoding="utf-8")
    (root / "metrics/linked.txt").symlink_to(tmp_path / "secret.txt")

    assert [file.name for file in Artifacts(run).find("metrics")] == ["a.txt"]
