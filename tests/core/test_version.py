"""The version is written once."""

from __future__ import annotations

import re
import tomllib

from support.common import ROOT

import mlflow_ddpm
from mlflow_ddpm.core.version import __version__


def test_the_package_and_its_distribution_have_one_version() -> None:
    """pyproject.toml takes it from the module, and it is one that pip can order."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    assert mlflow_ddpm.__version__ == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", __version__)
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mlflow_ddpm.core.version.__version__"}
