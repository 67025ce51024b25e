"""``comparison.md``: both tables of a comparison, and its pictures with their captions."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlflow_ddpm.analysis.run_description import DESCRIPTION_MAX
from mlflow_ddpm.core.formatting import count_of, format_number
from mlflow_ddpm.core.markdown import Markdown, escape, image_link, table
from mlflow_ddpm.plotting.plot_table import PLOTS
from mlflow_ddpm.publishing.compared_runs import ComparedRun
from mlflow_ddpm.publishing.comparison_tables import BEST_MARK, ComparedTable, best_of_all, results_table

_SHOWABLE = (".png", ".svg")  # by every reader of Markdown, best first


def page_parts(
    runs: Sequence[ComparedRun], tables: Mapping[str, ComparedTable], plots: Mapping[str, Sequence[Path]], drawn: int
) -> Iterator[str]:
    """Yield its parts; pictures, which show ``drawn`` lines, are linked by the names of their files beside it."""
    yield f"# Comparison of {len(runs)} runs"
    yield _lead(runs)
    yield "## Summary"
    yield table(tables["comparison_summary"].words)
    yield from _remarks(runs)
    yield "## Hyperparameters that differ"
    yield from _settings(runs, tables["comparison_hyperparameters"])
    if "comparison_groups" in tables:
        yield "## Repeats of one setting"
        yield table(tables["comparison_groups"].words)
    yield "## Plots"
    groups = tables.get("comparison_groups")
    what, lines = ("settings", len(groups.words.rows)) if groups else ("runs", len(runs))
    if drawn < lines:
        yield f"The pictures show the {drawn} {what} of the lowest loss; the tables have all {lines}."
    dashboard_first = sorted(PLOTS, key=lambda plot: len(plot.panels) == 1)
    for plot in dashboard_first:
        title, caption = (runs[0].history.worded(text) for text in (plot.title, plot.comparison_caption))
        yield f"### {title}"
        yield _embedded(plots[plot.name], title)
        yield f"*{caption}*"
    yield "## Files"
    csv, tex = (", ".join(f"`{name}.{suffix}`" for name in tables) for suffix in ("csv", "tex"))
    yield f"The tables for further use: {csv} (full precision), {tex} (LaTeX with booktabs)."


def describe_comparison(runs: Sequence[ComparedRun], page: str, parent_id: str) -> str:
    """Return the comparison in short, the lowest loss first, for the description of the runs' parent in MLflow.

    ``page`` is the address of ``comparison.md`` there.
    """
    below = sum(run.run_id != parent_id for run in runs)
    family = f"{count_of(below, 'run')} below this one" + (", and itself" if below < len(runs) else "")
    head = f"**{family}.** {_lead(runs)} [Pictures and tables]({page}) are among the artifacts."
    losses = {run.name: run.history.summary.best_loss for run in runs}
    results = results_table(sorted(runs, key=lambda run: (losses[run.name] is None, losses[run.name] or 0))).words
    for count in (len(results.rows), 40, 20, 10):
        text = f"{head}\n\n{table(results._replace(rows=results.rows[:count]))}"
        if len(text) <= DESCRIPTION_MAX:
            return text
    return head


def _lead(runs: Sequence[ComparedRun]) -> str:
    best = best_of_all(runs)
    if best is None:
        return "No run has a finite loss."
    run, result = best
    what, where = (run.history.worded(text) for text in ("Lowest mean loss of an epoch", f"at epoch {result.epoch}"))
    return f"{what}: {format_number(result.value)}, {escape(run.name)} {where}."


def _remarks(runs: Sequence[ComparedRun]) -> Iterator[str]:
    """Yield what to know of the table's numbers."""
    yield f"{BEST_MARK} marks the lowest loss. A dash means not measured; NaN and Inf were measured and are not finite."
    lines = []
    for run in runs:
        name = escape(run.name)
        if not run.history.rows:
            lines.append(f"- {name} has no rows yet; the pictures do not show it.")
        if run.history.resumed_at_epochs:
            epochs = run.history.format_epochs(run.history.resumed_at_epochs)
            lines.append(f"- {name} was resumed at {run.history.axis_label.lower()} {epochs}.")
    if lines:
        yield "\n".join(lines)


def _settings(runs: Sequence[ComparedRun], settings: ComparedTable) -> Iterator[str]:
    known = [run for run in runs if run.config]
    unknown = ", ".join(escape(run.name) for run in runs if not run.config)
    if not known:
        yield "No hyperparameters are known of any of them."
        return
    if settings.words.rows:
        yield table(settings.words)
    else:
        same = len({key for run in known for key in run.config})
        yield f"None: all {same} are the same." if len(known) > 1 else "None: they are known of one run alone."
    if unknown:
        yield f"No hyperparameters are known of {unknown}."


def _embedded(files: Sequence[Path], title: str) -> Markdown:
    """Return the picture in a format that Markdown shows, or else links to its files."""
    pictures = [path for suffix in _SHOWABLE for path in files if path.suffix == suffix]
    if pictures:
        return image_link(pictures[0].name, title)
    return Markdown(", ".join(f"[{escape(path.name)}]({path.name})" for path in files))
