"""The notebooks run from top to bottom, and what is committed of them looks good to whoever reads it on GitHub."""

from __future__ import annotations

import base64
import getpass
import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from support.common import ROOT
from support.notebooks import NOTEBOOKS, execute

# Where people keep files on Unix, macOS and Windows; not the slashes of URLs and of relative paths.
_MACHINE = re.compile(r"(?<![\w.:/])/(?:tmp|home|root|usr|opt|var|mnt|work|srv|private|Users)/|\b[A-Z]:\\")
_PNG_MAX, _FILE_MAX = 250_000, 600_000  # bytes
_CELL_LINES = 32


def _cells(path: Path, kind: str = "code") -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def _outputs(path: Path) -> list[dict[str, Any]]:
    return [output for cell in _cells(path) for output in cell["outputs"]]


def _text(output: dict[str, Any]) -> str:
    """Return all of an output that can be read, picture data left out."""
    data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
    return json.dumps([output.get("text"), data], ensure_ascii=False)


def _kinds(output: dict[str, Any]) -> tuple[str, ...]:
    return (output["output_type"], output.get("name", ""), *sorted(output.get("data", {})))


def test_the_three_notebooks_are_there_and_the_readme_leads_to_them() -> None:
    """The tracker in one's own loop, in a framework's loop, and the way to a paper."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert ["paper_figures.ipynb", "quickstart.ipynb", "your_framework.ipynb"] == [path.name for path in NOTEBOOKS]
    assert all(f"(notebooks/{path.name})" in readme for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_it_ran(path: Path) -> None:
    """Every cell ran once, in order; nothing failed, and no warning is left for the reader to wonder at."""
    counts = [cell["execution_count"] for cell in _cells(path)]

    assert counts == list(range(1, len(counts) + 1))
    assert [] == [output for output in _outputs(path) if output["output_type"] == "error"]
    assert [] == [output for output in _outputs(path) if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_tells_of_the_machine(path: Path) -> None:
    """Neither its paths nor its name nor its user's."""
    text = "\n".join(map(_text, _outputs(path)))

    assert [] == _MACHINE.findall(text)
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert f"/{getpass.getuser()}/" not in text
    assert str(ROOT) not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_a_pleasant_read(path: Path) -> None:
    """Short cells, prose, pictures of modest size."""
    pictures = [base64.b64decode(o["data"]["image/png"]) for o in _outputs(path) if "image/png" in o.get("data", {})]

    assert max(len(cell["source"]) for cell in _cells(path)) <= _CELL_LINES
    assert len(_cells(path, "markdown")) >= len(_cells(path)) / 2
    assert len(pictures) >= 2
    assert max(map(len, pictures)) <= _PNG_MAX
    assert path.stat().st_size <= _FILE_MAX


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    """In an empty directory, with no other machine in reach; it makes the outputs that are committed."""
    made = [dict(output) for cell in execute(path, tmp_path).cells for output in cell.get("outputs", ())]

    # A warning that the machine is slow may come and go.
    assert [_kinds(o) for o in _outputs(path)] == [_kinds(o) for o in made if o.get("name") != "stderr"]
    assert (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_cells_run_in_this_interpreter_and_a_failing_one_is_no_secret(tmp_path: Path) -> None:
    """What the tests above rely on."""
    import nbformat
    from nbclient.exceptions import CellExecutionError
    from nbformat.v4 import new_code_cell, new_notebook

    def written(code: str) -> Path:
        path = tmp_path / "notebook.ipynb"
        nbformat.write(new_notebook(cells=[new_code_cell(code)]), path)  # type: ignore[no-untyped-call]
        return path

    (cell,) = execute(written("import os, sys\nprint(sys.executable, os.getcwd())"), tmp_path).cells
    assert cell.outputs[0].text.split() == [sys.executable, str(tmp_path)]
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(written("1 / 0"), tmp_path)
