"""The names of a run's files, and that only one file of the package spells them."""

from __future__ import annotations

import ast
from pathlib import Path

from support.common import ROOT

from mlflow_ddpm.storage import layout

SPELT = {
    value
    for name, value in vars(layout).items()
    if name.isupper() and isinstance(value, str) and ("." in value or "_" in value)
}


def _strings(path: Path) -> set[str]:
    """Return the string constants of a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return {node.value for node in constants if isinstance(node.value, str)}


def test_every_file_name_of_a_run_is_spelt_in_one_file() -> None:
    """A literal elsewhere would be missed when one changes."""
    modules = [path for path in (ROOT / "mlflow_ddpm").rglob("*.py") if path.name != "layout.py"]

    assert {"training_metrics.csv", ".delivery.json", "training_report.md", "model.safetensors"} <= SPELT
    assert [] == [(path.name, name) for path in modules for name in sorted(SPELT & _strings(path))]


def test_names_of_images_and_checkpoints_are_read_back_as_they_are_written() -> None:
    """The pattern and the function agree, up to epochs of seven digits and more."""
    for epoch in (0, 7, 999_999, 1_000_000, 10**15):
        match = layout.SAMPLE_PATTERN.fullmatch(layout.sample_name("a-b_1", epoch))
        checkpoint = layout.CHECKPOINT_PATTERN.fullmatch(layout.checkpoint_name(epoch))

        assert match is not None
        assert (match["name"], int(match["epoch"])) == ("a-b_1", epoch)
        assert checkpoint is not None
        assert int(checkpoint[1]) == epoch


def test_a_model_is_both_of_its_files_and_no_link(tmp_path: Path) -> None:
    """What lies outside the directory does not belong to it."""
    folder = tmp_path / layout.MODEL_FOLDER
    folder.mkdir()
    weights, config = folder / layout.WEIGHTS_NAME, folder / layout.DESCRIPTION_NAME
    weights.write_bytes(b"w")
    alone = layout.model_files(tmp_path)
    config.write_bytes(b"{}")
    both = layout.model_files(tmp_path)
    config.unlink()
    config.symlink_to(weights)

    assert (alone, both, layout.model_files(tmp_path)) == ([], [weights, config], [])
    config.unlink()
    config.write_bytes(b"{}")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert layout.model_files(tmp_path) == []
