"""Runs beside each other: the eleven pictures with all of them, and what tells them apart in tables.

Nothing is logged to MLflow: a comparison belongs to no run. The same runs in the same order give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mlflow_ddpm.analysis.history import HistorySource
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.atomic_file import replace_file, shown
from mlflow_ddpm.core.errors import HistoryError, UsageError
from mlflow_ddpm.plots import FigureSet
from mlflow_ddpm.plotting.run_styles import MOST_RUNS
from mlflow_ddpm.publishing.compared_runs import ComparedRun, read_runs
from mlflow_ddpm.publishing.comparison_page import render_page
from mlflow_ddpm.publishing.comparison_plots import draw_comparisons
from mlflow_ddpm.publishing.comparison_tables import ComparedTable, hyperparameters_table, summary_table
from mlflow_ddpm.storage.layout import CSV_NAME, JSON_NAME

__all__ = ["PAGE_NAME", "Comparison", "compare_runs"]

PAGE_NAME = "comparison.md"
_FEWEST_RUNS = 2


class Comparison(NamedTuple):
    """What a comparison made."""

    runs: list[ComparedRun]
    output_dir: Path
    files: list[Path]  # the page first


def compare_runs(
    sources: Sequence[HistorySource],
    *,
    save_dir: str | Path,
    theme: str = "dark",
    formats: Sequence[str] = ("png",),
    widths: Sequence[str] = (),
    font: str = "",
    tracking_uri: str | None = None,
) -> Comparison:
    """Write pictures, tables and a page of several runs into ``save_dir``.

    All eleven pictures of one run, under the same names, hold one line a run, in the run's colour; the eighth run and
    those after it get the seven colours again, dashed. ``comparison.md`` shows the pictures and both tables,
    ``comparison_summary`` (key results) and ``comparison_hyperparameters`` (those that are not the same in all runs),
    which are there as ``.csv`` and as ``.tex``, too.

    Args:
        sources: two or more of what :func:`mlflow_ddpm.read_history` takes. Runs bear the names that MLflow has of
            them, else those of their files or folders; two of one name get the first letters of their ids, too.
        save_dir: made if it is not there; it must not hold a run.
        theme: ``dark`` or ``paper``.
        formats: of png, pdf and svg; the page shows PNG or SVG, and links to PDF.
        widths: of the theme paper: ``single`` (its default), ``double`` or both.
        font: of the theme paper: ``serif`` or ``sans``.
        tracking_uri: the tracking store of run ids; default: MLflow's own settings.

    Raises:
        UsageError: fewer runs than two, more than there are looks for, one of them twice, a directory that holds a
            run; no such theme, format or width.
        HistoryError: a source has no history to read, or no run has an epoch yet.
        StoreError: the store is away or has no such run.
    """
    wanted = FigureSet.create(theme, formats, widths, font)
    directory = Path(save_dir)
    _check_sources(sources)
    _check_directory(directory)
    runs = read_runs(sources, tracking_uri)
    if not any(len(run.history) for run in runs):
        raise HistoryError("none of the runs has an epoch yet; there is nothing to compare")
    directory.mkdir(parents=True, exist_ok=True)
    plots = draw_comparisons([(run.name, RunHistory.from_frame(run.history)) for run in runs], directory, wanted)
    summary, settings = summary_table(runs), hyperparameters_table(runs)
    tables = _write_tables({"comparison_summary": summary, "comparison_hyperparameters": settings}, directory)
    page = directory / PAGE_NAME
    replace_file(page, render_page(runs, summary, settings, plots).encode())
    return Comparison(runs, directory, [page, *tables, *(path for paths in plots.values() for path in paths)])


def _check_sources(sources: Sequence[HistorySource]) -> None:
    if isinstance(sources, str | Path) or len(sources) < _FEWEST_RUNS:
        count = 1 if isinstance(sources, str | Path) else len(sources)
        raise UsageError(f"a comparison takes {_FEWEST_RUNS} runs or more, got {count}; `publish` renders one")
    if len(sources) > MOST_RUNS:
        raise UsageError(
            f"a comparison takes {MOST_RUNS} runs at most, got {len(sources)}: no more can be told apart in one picture"
        )


def _check_directory(directory: Path) -> None:
    """Refuse to write pictures of several runs over those of one."""
    if any((directory / name).exists() for name in (CSV_NAME, JSON_NAME)):
        raise UsageError(
            f"{shown(directory)} holds a run, whose pictures bear the same names; choose another directory"
        )


def _write_tables(tables: Mapping[str, ComparedTable], directory: Path) -> list[Path]:
    written = []
    for name, table in tables.items():
        for suffix, content in (("csv", table.as_csv()), ("tex", table.as_latex())):
            replace_file(directory / f"{name}.{suffix}", content)
            written.append(directory / f"{name}.{suffix}")
    return written
