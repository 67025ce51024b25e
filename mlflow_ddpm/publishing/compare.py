"""Runs beside each other: the eleven pictures with all of them, and tables of their results and differences.

The same runs in the same order give the same bytes. A comparison of chosen runs is written to disk alone; one of the
runs below a parent is logged to the parent, too.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from mlflow_ddpm.analysis.history import HistorySource, load_stored_run
from mlflow_ddpm.analysis.run_description import write_comparison
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import HistoryError, UsageError
from mlflow_ddpm.core.formatting import count_of, display_path
from mlflow_ddpm.core.links import artifact_link
from mlflow_ddpm.plots import FigureSet, make_comparison, write_plots
from mlflow_ddpm.plotting.run_styles import MOST_RUNS
from mlflow_ddpm.publishing.compared_runs import ComparedRun, group_runs, read_runs
from mlflow_ddpm.publishing.comparison_page import describe_comparison, page_parts
from mlflow_ddpm.publishing.comparison_tables import groups_table, hyperparameters_table, results_table
from mlflow_ddpm.publishing.named_run import has_history
from mlflow_ddpm.storage.mlflow_run import MlflowRun
from mlflow_ddpm.storage.run_search import child_runs, find_run

PAGE_NAME = "comparison.md"
_FEWEST_RUNS = 2
_MOST_CHILDREN = 500
_ARTIFACT_FOLDER = "comparison"  # of the parent's artifacts


class Comparison(NamedTuple):
    """What a comparison made."""

    runs: list[ComparedRun]
    output_dir: Path
    files: list[Path]  # the page first


def compare_runs(
    sources: Sequence[HistorySource] = (),
    *,
    save_dir: str | Path = "comparison",
    parent: str | None = None,
    group_by: str | None = None,
    theme: str = "dark",
    formats: Sequence[str] = ("png",),
    widths: Sequence[str] = (),
    font: str = "",
    tracking_uri: str | None = None,
) -> Comparison:
    """Write pictures, tables and a page of several runs into ``save_dir``.

    All eleven pictures of one run, under the same names, hold one line a run, in the run's colour; the eighth run and
    those after it get the seven colours again, dashed. ``comparison.md`` shows the pictures and the tables,
    ``comparison_summary`` (key results) and ``comparison_hyperparameters`` (those that are not the same in all runs),
    which are there as ``.csv`` and as ``.tex``, too.

    Args:
        sources: two or more of what :func:`mlflow_ddpm.read_history` takes. Runs bear the names that MLflow has of
            them, else those of their files or folders; two of one name get the first letters of their ids, too.
        save_dir: made if it is not there; it must not hold a run.
        parent: a run id, instead of ``sources``: all runs below it are compared, and the parent too if it has epochs
            of its own. If they are more than there are looks for, the pictures show those of the lowest loss, and the
            tables have all. Everything is logged among the parent's artifacts under ``comparison/`` as well, and its
            description shows the results.
        group_by: a hyperparameter by its dotted name. Runs that share its value are repeats of one setting: they are
            drawn as their mean and range, and ``comparison_groups`` has their results.
        theme: ``dark`` or ``paper``.
        formats: of png, pdf and svg; the page shows PNG or SVG, and links to PDF.
        widths: of the theme paper: ``single`` (its default), ``double`` or both.
        font: of the theme paper: ``serif`` or ``sans``.
        tracking_uri: the tracking store of run ids; default: MLflow's own settings.

    Raises:
        UsageError: fewer runs than two, more lines than there are looks for, a run twice, a directory that holds a
            run, both ``sources`` and ``parent``; no such hyperparameter, theme, format or width.
        HistoryError: a source has no history to read, or no run has a row yet.
        StoreError: the store is away or has no such run.
    """
    wanted = FigureSet.create(theme, formats, widths, font)
    directory = Path(save_dir)
    if has_history(directory):  # pictures of several runs would replace those of one
        raise UsageError(
            f"{display_path(directory)} holds a run, whose pictures bear the same names; choose another directory"
        )
    store = find_run(parent, tracking_uri) if parent is not None else None
    if store is not None:
        sources = _children(store, sources)
    count = 1 if isinstance(sources, str | Path) else len(sources)
    if count < _FEWEST_RUNS:
        raise UsageError(f"a comparison takes {_FEWEST_RUNS} runs or more, got {count}; `publish` renders one")
    if group_by is None and store is None:
        _check_lines(count, "runs")
    runs = read_runs(sources, tracking_uri)
    _check_counting(runs)
    groups = group_runs(runs, group_by) if group_by is not None else {}
    if store is None:
        _check_lines(len(groups), "settings")
    if not any(run.history.rows for run in runs):
        raise HistoryError("none of the runs has a row yet; there is nothing to compare")
    files = _write(runs, groups, directory, wanted)
    if store is not None:
        for path in files:
            store.log_file(path, _ARTIFACT_FOLDER)
        page = artifact_link(store.read_page().experiment_id, store.run_id, f"{_ARTIFACT_FOLDER}/{PAGE_NAME}")
        write_comparison(store, describe_comparison(runs, page, store.run_id))
    return Comparison(runs, directory, files)


def _write(
    runs: Sequence[ComparedRun], groups: Mapping[str, Sequence[ComparedRun]], directory: Path, wanted: FigureSet
) -> list[Path]:
    """Write all files of a comparison and return their paths, the page first."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = _lowest(groups or {run.name: [run] for run in runs})
    drawn = [(name, [run.history for run in repeats] if groups else repeats[0].history) for name, repeats in lines]
    plots = write_plots(partial(make_comparison, runs=drawn), directory, wanted)
    tables = {"comparison_summary": results_table(runs), "comparison_hyperparameters": hyperparameters_table(runs)}
    if groups:
        tables["comparison_groups"] = groups_table(groups)
    page = directory / PAGE_NAME
    replace_file(page, ("\n\n".join(page_parts(runs, tables, plots, len(lines))) + "\n").encode())
    written = [page]
    for name, table in tables.items():
        for suffix, content in (("csv", table.as_csv()), ("tex", table.as_latex())):
            path = directory / f"{name}.{suffix}"
            replace_file(path, content)
            written.append(path)
    return [*written, *(path for paths in plots.values() for path in paths)]


def _lowest(lines: Mapping[str, Sequence[ComparedRun]]) -> list[tuple[str, Sequence[ComparedRun]]]:
    """Return as many lines as there are looks for, those of the lowest loss, in the order given."""
    losses = {
        name: [loss for run in runs if (loss := run.history.summary.best_loss) is not None]
        for name, runs in lines.items()
    }
    chosen = sorted(lines, key=lambda name: fmean(losses[name] or [math.inf]))[:MOST_RUNS]
    return [(name, runs) for name, runs in lines.items() if name in chosen]


def _children(parent: MlflowRun, sources: Sequence[HistorySource]) -> list[HistorySource]:
    """Return the histories of the runs below a parent, after its own if it has one, as one of two networks has."""
    if sources:
        raise UsageError("a comparison takes either runs or the parent of runs, got both")
    children = child_runs(parent, at_most=_MOST_CHILDREN)
    own = load_stored_run(parent)
    histories = [*([own] if own.rows else []), *(load_stored_run(child) for child in children)]
    if len(histories) < _FEWEST_RUNS:
        raise UsageError(
            f"run {parent.run_id} has {count_of(len(children), 'run')} below it (mlflow.parentRunId); a comparison "
            f"takes {_FEWEST_RUNS} runs or more"
        )
    return list(histories)


def _check_lines(count: int, what: str) -> None:
    if count > MOST_RUNS:
        raise UsageError(
            f"a comparison takes {MOST_RUNS} {what} at most, got {count}: one picture has no room for more"
        )


def _check_counting(runs: Sequence[ComparedRun]) -> None:
    """Refuse to draw epochs and steps on one axis."""
    names = {run.history.axis_label: run.name for run in runs if run.history.rows}
    if len(names) > 1:
        raise UsageError(
            f"a comparison takes runs that all count epochs or all count steps; {names['Epoch']} counts epochs, "
            f"{names['Step']} counts steps"
        )
