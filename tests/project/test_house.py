"""The rules of the house: light imports, one direction, public names, small files, no print."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.common import ROOT

import mlflow_ddpm

PACKAGE = ROOT / "mlflow_ddpm"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "mlflow", "pandas", "matplotlib", "jinja2", "numpy", "sklearn", "PIL")

# A room may import those above it; rooms of one line stand side by side and import none of each other.
FLOORS = [
    ("core",),
    ("storage",),
    ("analysis",),
    ("tracking", "plotting", "reporting"),
    ("tracker", "plots", "report"),
    ("ddpm", "integrations"),
    ("publishing",),
    ("cli",),
    ("__init__", "__main__"),
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def _loaded(code: str, **env: str) -> set[str]:
    """Return which heavy modules are loaded after the code ran in a fresh interpreter."""
    code += f"\nimport sys\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, **env}, timeout=60
    )
    return set(done.stdout.split())


def _noun(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Each public name is resolved at its first use."""
    assert _loaded("import mlflow_ddpm") == set()


def test_the_help_of_the_command_line_loads_nothing_heavy() -> None:
    """It answers at once."""
    assert _loaded("from mlflow_ddpm.cli.main import build_parser; build_parser()") == set()


def test_plotting_loads_neither_pyplot_nor_torch() -> None:
    """A figure is made without global state, and without two seconds of imports."""
    code = """
from mlflow_ddpm.analysis.frame import frame_from_rows
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.plots import make_figure
make_figure("loss_linear", frame_from_rows([EpochMetrics(epoch=0, loss_mean=1.0)]))
import sys
assert "matplotlib.pyplot" not in sys.modules
"""
    assert not {"torch", "mlflow"} & _loaded(code)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """A module imports, when it is loaded, only what stands above it in the house."""
    if path.name == "__init__.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    mine = _noun(path)
    names = [
        [*node.module.split("."), alias.name][1]
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mlflow_ddpm"
        for alias in node.names
    ]

    assert [] == [name for name in names if name != mine and FLOOR[name] >= FLOOR[mine]]


def test_the_mathematics_needs_torch_alone() -> None:
    """It can be taken out and used elsewhere; one process imports all of it."""
    assert _loaded("from mlflow_ddpm.ddpm.model import diffusion, unet") <= {"torch", "numpy"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_is_small_and_says_what_it_is_for(path: Path) -> None:
    """One noun, under 300 lines, no assert; only the command line prints."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    calls = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}

    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(tree)
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    assert path.parent.name == "cli" or not {"print", "exit", "input"} & calls


def test_public_names_are_listed_sorted_and_there() -> None:
    """What ``from mlflow_ddpm import *`` gives is what the package promises."""
    assert sorted(mlflow_ddpm.__all__) == mlflow_ddpm.__all__
    assert all(getattr(mlflow_ddpm, name) for name in mlflow_ddpm.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'MetricTracker'; it offers"):
        _ = mlflow_ddpm.MetricTracker


def test_the_specifications_names_are_where_it_says() -> None:
    """``tracker`` exports three names, ``plots`` and ``report`` one each."""
    from mlflow_ddpm.plots import generate_all_plots
    from mlflow_ddpm.report import generate_report
    from mlflow_ddpm.tracker import EpochMetrics, MetricsTracker, compute_grad_norm

    assert mlflow_ddpm.MetricsTracker is MetricsTracker
    assert mlflow_ddpm.generate_all_plots is generate_all_plots
    assert mlflow_ddpm.generate_report is generate_report
    assert callable(compute_grad_norm)
    assert EpochMetrics(epoch=0).epoch == 0


@pytest.mark.slow
def test_a_built_wheel_carries_styles_templates_and_types(tmp_path: Path) -> None:
    """What lies beside the code is package data, and tests and notebooks are not."""
    import zipfile

    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()

    for needed in (
        "py.typed",
        "plotting/styles/dark.mplstyle",
        "plotting/styles/paper.mplstyle",
        "reporting/templates/report.md.j2",
        "reporting/templates/report.html.j2",
        "ddpm/train.py",
    ):
        assert f"mlflow_ddpm/{needed}" in names
    assert not [name for name in names if name.startswith(("tests", "notebooks", "shared"))]
