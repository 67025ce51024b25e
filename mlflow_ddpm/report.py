"""The report: build its context, render it as Markdown and as one HTML page, write both.

No number is computed and no text is escaped in the template: :mod:`mlflow_ddpm.reporting.context` words everything, and
every value that the template inserts is escaped unless it is Markdown already. The same history, config, run and files
give the same bytes, in any directory, on any day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.analysis.frame import rows_from_frame
from mlflow_ddpm.analysis.history import HistorySource, is_on_another_rank, log_made, read_description, read_history
from mlflow_ddpm.analysis.run_history import RunHistory
from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.markdown import Markdown, code, escape, json_block, picture, table
from mlflow_ddpm.core.redaction import redacted
from mlflow_ddpm.core.strict_json import as_config
from mlflow_ddpm.plotting.plot_table import PLOTS, describe_plot
from mlflow_ddpm.reporting.context import Figure, ReportContext, build_context
from mlflow_ddpm.reporting.manifest import output_files, pictures, relative_link, sample_files
from mlflow_ddpm.reporting.model_card import yaml_header
from mlflow_ddpm.reporting.rendering import render_html
from mlflow_ddpm.reporting.report_templates import load_template
from mlflow_ddpm.storage.layout import HTML_NAME, REPORT_NAME

if TYPE_CHECKING:
    import jinja2

__all__ = ["generate_report", "render_markdown"]


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

    Both say the same; the page has its pictures inside. Each is written all or nothing.

    Call it last: the report lists the other files of ``save_dir`` with size and checksum, and embeds the newest sample
    grid of ``save_dir/samples`` if there is one.

    Args:
        source: anything that :func:`mlflow_ddpm.read_history` takes.
        config: the run's hyperparameters. ``data.name`` and ``license``, where given, go into the model card's header.
        save_dir: made if it is not there.
        plot_paths: what :func:`mlflow_ddpm.generate_all_plots` returned; None takes the plots found in ``save_dir``.
        run: what identifies the run: ``run_id``, ``run_name``, ``experiment_name``, ``start_time_ms`` (Unix time), ...
            Its status and end are not shown: they change after the report of a run that publishes itself.
        environment: versions, device, world size. A tracker and an output directory know these three by themselves. On
            ranks other than 0 a tracker has nothing to report, and nothing is written.

    Raises:
        HistoryError: the source has no history to read. :func:`mlflow_ddpm.read_history` says what else it raises.
        UsageError: ``plot_paths`` names a plot that does not exist.
        OSError: a report cannot be written; an earlier one is untouched.
    """
    save_dir = Path(save_dir)
    if is_on_another_rank(source):
        return save_dir / REPORT_NAME
    rows, told = rows_from_frame(read_history(source)), read_description(source)
    history = RunHistory.create(rows)
    titles = {plot.name: plot.title for plot in PLOTS}
    plots = pictures(titles, save_dir, plot_paths)
    captions = {plot.name: plot.caption for plot in PLOTS}
    context = build_context(
        rows,
        config=redacted(told.config if config is None else as_config(config)).value,
        run=redacted(told.run if run is None else run).value,
        environment=redacted(told.environment if environment is None else environment).value,
        figures={
            name: Figure(
                title=titles[name],
                link=relative_link(path, save_dir),
                caption=captions[name],
                reading=describe_plot(name, history),
            )
            for name, path in plots.items()
        },
        samples=sample_files(save_dir),
        files=output_files(save_dir, titles, plots),
    )
    save_dir.mkdir(parents=True, exist_ok=True)
    path, page = save_dir / REPORT_NAME, save_dir / HTML_NAME
    replace_file(path, render_markdown(context).encode())
    replace_file(page, render_html(context, lambda link: (save_dir / link).read_bytes()).encode())
    log_made(source, [path, page])
    return path


def render_markdown(context: ReportContext) -> str:
    """Return the report's text."""
    return _template().render(report=context)


@cache
def _template() -> jinja2.Template:
    filters: dict[str, Any] = {
        "yaml_header": yaml_header,
        "table": table,
        "listed": _listed,
        "json_block": json_block,
        "code": code,
        "picture": lambda figure: picture(figure.link, figure.title),
    }
    return load_template("report.md.j2", _insert, filters)


def _insert(value: object) -> Markdown:
    return escape(value if isinstance(value, str) else str(value))


def _listed(values: Iterable[str]) -> Markdown:
    return Markdown(", ".join(escape(value) for value in values))
