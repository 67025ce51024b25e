"""The report: build its context, render it as Markdown and as one HTML page, write both.

No number is computed and no text is escaped in the templates: :mod:`mlflow_ddpm.reporting.context` words everything,
and every value that a template inserts is escaped unless it is Markdown already. The same history, config, run and
files give the same bytes, in any directory, on any day.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_ddpm.analysis.frame import RESUMED
from mlflow_ddpm.analysis.history import HistorySource, is_on_another_rank, load_history, log_made
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.strict_json import as_config
from mlflow_ddpm.plotting.plot_table import PLOTS, plot_named
from mlflow_ddpm.reporting.context import ReportFigure, build_context
from mlflow_ddpm.reporting.manifest import find_plot_files, output_files, relative_link, sample_files
from mlflow_ddpm.reporting.rendering import render_html, render_markdown, with_palette
from mlflow_ddpm.storage.layout import HTML_NAME, REPORT_NAME

__all__ = ["generate_report"]


def generate_report(
    source: HistorySource,
    *,
    config: Mapping[str, Any] | None = None,
    save_dir: str | Path,
    plot_paths: Mapping[str, Path] | None = None,
    run: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``training_report.md`` into ``save_dir`` and return its path; beside it, ``training_report.html``.

    Both have the same content; the page has its pictures inside. Each is written all or nothing.

    Call it last: the report lists the other files of ``save_dir`` with size and checksum, and embeds the newest sample
    grid of ``save_dir/samples`` if there is one.

    Args:
        source: anything that :func:`mlflow_ddpm.read_history` takes.
        config: the run's hyperparameters. ``data.name`` and ``license``, where given, go into the model card's header.
        save_dir: made if it is not there.
        plot_paths: what :func:`mlflow_ddpm.generate_all_plots` returned; None takes the plots found in ``save_dir``.
        run: what identifies the run: ``run_id``, ``run_name``, ``experiment_name``, ``start_time_ms`` (Unix time), ...
            Its status and end are not shown: they change after the report of a run that publishes itself.
        environment: versions, device, world size. Of these three, None takes what the source knows. On ranks other
            than 0 a tracker has nothing to report, and nothing is written.

    Raises:
        HistoryError: the source has no history to read. Further errors: see :func:`mlflow_ddpm.read_history`.
        UsageError: ``plot_paths`` names a plot that does not exist.
        OSError: a report cannot be written; an earlier one is untouched.
    """
    save_dir = Path(save_dir)
    if is_on_another_rank(source):
        return save_dir / REPORT_NAME
    history = load_history(source)
    history = RunHistory.create(
        history.rows,
        config=history.config if config is None else as_config(config),
        run=history.run if run is None else {RESUMED: history.resumed_at_epochs, **run},
        environment=history.environment if environment is None else environment,
    )
    save_dir.mkdir(parents=True, exist_ok=True)
    files = write_report(history, save_dir, plot_paths)
    log_made(source, files)
    return files[0]


def write_report(history: RunHistory, save_dir: Path, plot_paths: Mapping[str, Path] | None) -> list[Path]:
    """Write both forms of the report of a history without credentials, and return their paths, Markdown first."""
    titles = {plot.name: history.worded(plot.title) for plot in PLOTS}
    plots = find_plot_files(titles, save_dir, plot_paths)
    links = {name: relative_link(path, save_dir) for name, path in plots.items()}
    context = build_context(
        history,
        figures={name: plot_figure(name, link, history) for name, link in links.items()},
        samples=sample_files(save_dir),
        files=output_files(save_dir, titles, plots),
    )

    def read_picture(link: str) -> bytes:
        content = (save_dir / link).read_bytes()
        return with_palette(content) if link in links.values() else content

    path, page = save_dir / REPORT_NAME, save_dir / HTML_NAME
    replace_file(path, render_markdown(context).encode())
    replace_file(page, render_html(context, read_picture).encode())
    return [path, page]


def plot_figure(name: str, link: str, history: RunHistory) -> ReportFigure:
    """Return a plot of a run with its title, caption and sentence."""
    plot = plot_named(name)
    title, caption = history.worded(plot.title), history.worded(plot.caption)
    return ReportFigure(title=title, link=link, caption=caption, reading=plot.describe(history))
