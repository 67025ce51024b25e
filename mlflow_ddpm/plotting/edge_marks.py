"""Marks for what lines and bars cannot show: values that are not finite or off scale, missing rows, resumes.

Each function marks the axes and returns the note that explains the mark. Of several runs, marks have the run's colour
and notes its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.core.formatting import count_of
from mlflow_ddpm.plotting.annotations import MAX_NAMED, epochs_text, number
from mlflow_ddpm.plotting.axes import pixel_columns
from mlflow_ddpm.plotting.marks import Trace
from mlflow_ddpm.plotting.notes import Note
from mlflow_ddpm.plotting.series import GAP, Flags, Floats, Series, nonfinite_kinds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NONFINITE = "C6"  # the colour of what was measured and is not finite
_EDGE = 0.025  # of the height of the axes, where marks of what cannot be drawn are put


def mark_nonfinite(ax: Axes, traces: Sequence[Trace]) -> Note | None:
    """Mark at the bottom of the axes the epochs that were measured and are not finite."""
    marked = [trace for trace in traces if len(trace.series.nonfinite_epochs)]
    if not marked:
        return None
    for trace in marked:
        _mark_edge(ax, trace.series, trace.series.nonfinite_epochs, "x", trace.color if trace.name else NONFINITE)
    kinds = nonfinite_kinds([trace.series for trace in marked])
    where = "; ".join(trace.mention(epochs_text(trace.series, trace.series.nonfinite_epochs)) for trace in marked)
    count = sum(len(trace.series.nonfinite_epochs) for trace in marked)
    brief = f"{kinds} in {count_of(len(marked), 'run')}" if marked[0].name else f"{count:,} {kinds}"
    return Note(f"{kinds} ({where})", _only_color(marked, NONFINITE), brief, "x", kinds)


def mark_offscale(ax: Axes, traces: Sequence[Trace]) -> list[Note]:
    """Mark at the edges of the axes the epochs that exceed the limits, and note how far they go."""
    floor, ceiling = ax.get_ylim()
    above = [(trace, trace.series.value > ceiling) for trace in traces]
    below = [(trace, trace.series.value < floor) for trace in traces]
    return [
        _offscale_note(ax, beyond, marker)
        for beyond, marker in ((above, "^"), (below, "v"))
        if any(is_beyond.any() for _, is_beyond in beyond)
    ]


def _offscale_note(ax: Axes, beyond: Sequence[tuple[Trace, Flags]], marker: str) -> Note:
    from matplotlib import rcParams

    own = str(rcParams["text.color"])
    beyond = [(trace, is_beyond) for trace, is_beyond in beyond if is_beyond.any()]
    epochs = np.zeros(0)
    for name in dict.fromkeys(trace.name for trace, _ in beyond):
        of_run = [(trace, is_beyond) for trace, is_beyond in beyond if trace.name == name]
        epochs = np.unique(np.concatenate([trace.series.epoch[is_beyond] for trace, is_beyond in of_run]))
        _mark_edge(ax, of_run[0][0].series, epochs, marker, of_run[0][0].color if name else own)
    extreme = np.nanmax if marker == "^" else np.nanmin
    values = [float(extreme(trace.series.finite)) for trace, _ in beyond]
    farthest = int(np.argmax(np.abs(values)))
    brief = f"{'up' if marker == '^' else 'down'} to {number(values[farthest])}"
    where = beyond[farthest][0].name or epochs_text(beyond[0][0].series, epochs)
    color = _only_color([trace for trace, _ in beyond], own)
    return Note(f"off scale: {brief} ({where})", color, brief, marker, brief)


def mark_not_positive(ax: Axes, traces: Sequence[Trace], what: str) -> Note | None:
    """Mark the epochs whose value a logarithmic axis cannot show."""
    marked = [(trace, trace.series.epoch[trace.series.value <= 0]) for trace in traces]
    marked = [(trace, epochs) for trace, epochs in marked if len(epochs)]
    for trace, epochs in marked:
        _mark_edge(ax, trace.series, epochs, "v", trace.color if trace.name else NONFINITE)
    if not marked:
        return None
    where = ", ".join(trace.name or epochs_text(trace.series, epochs) for trace, epochs in marked)
    brief = f"{what} not above zero"
    return Note(f"{brief}: {where}", _only_color([trace for trace, _ in marked], NONFINITE), brief, "v", brief)


def mark_resumes(ax: Axes, traces: Sequence[tuple[Trace, Sequence[int]]]) -> Note | None:
    """Mark where runs were resumed, each a trace and the first epochs after its resumes, between the two rows."""
    from matplotlib import rcParams

    marked = [(trace, epochs) for trace, epochs in traces if epochs]
    for trace, epochs in marked:
        color = trace.color if trace.name else rcParams["axes.labelcolor"]
        for epoch in epochs:
            ax.axvline(
                epoch - trace.series.spacing / 2, color=color, linestyle=":", zorder=0.9, gid="resumed",
                linewidth=0.6 * rcParams["lines.linewidth"],
            )  # fmt: skip
    if not marked:
        return None
    trace, epochs = marked[0]
    if trace.name:
        names = ", ".join(trace.name for trace, _ in marked)
        return Note(f"resumed: {names}", _only_color([trace for trace, _ in marked], ""), "resumed", ":", "resumed")
    times = f"{len(epochs)} times" if len(epochs) > MAX_NAMED else f"at {epochs_text(trace.series, np.array(epochs))}"
    return Note(f"resumed {times}", "", "resumed", ":", "resumed")


def missing_note(series: Series) -> Note | None:
    """Name the epochs that have no row or, if none is missing, count those without a value though others have one."""
    gaps = np.round(np.diff(series.epoch) / series.spacing) - 1
    count = int(gaps[gaps > 0].sum())
    if count > MAX_NAMED:
        return Note(f"missing: {series.count_text(count)}")
    if count:
        holes = [series.epoch[i] + series.spacing * np.arange(1, gaps[i] + 1) for i in np.flatnonzero(gaps > 0)]
        return Note(f"missing: {epochs_text(series, np.concatenate(holes))}")
    unmeasured = len(series.epoch) - series.measured
    return Note(f"not measured in {unmeasured:,} of {series.count_text(len(series.epoch))}") if unmeasured else None


def _only_color(marked: Sequence[Trace], otherwise: str) -> str:
    """Return the run's colour where the words are about one run of several alone."""
    names = {trace.name for trace in marked}
    return (marked[0].color if len(names) == 1 else "") if marked[0].name else otherwise


def _mark_edge(ax: Axes, series: Series, epochs: Floats, marker: str, color: str) -> None:
    """Mark epochs at an edge of the axes: each stretch of neighbours by one mark, on a line as long as the stretch."""
    from matplotlib import rcParams

    if not len(epochs):
        return
    first, last = ax.get_xlim()
    touching = max(GAP * series.spacing, 3 * (last - first) / pixel_columns(ax))
    stretches = np.split(epochs, np.flatnonzero(np.diff(epochs) > touching) + 1)
    middles = np.array([(stretch[0] + stretch[-1]) / 2 for stretch in stretches])
    size, where = 1.2 * rcParams["lines.markersize"], ax.get_xaxis_transform()
    height = 1 - _EDGE if marker == "^" else _EDGE
    for stretch in stretches:
        if len(stretch) > 1:
            ax.plot(
                stretch[[0, -1]], [height, height], color=color, transform=where, clip_on=False, gid="stretch",
                solid_capstyle="butt", linewidth=size / 3,
            )  # fmt: skip
    ax.plot(middles, np.full(len(middles), height), marker, color=color, markersize=size, transform=where,
            markeredgewidth=size / 4, clip_on=False, zorder=6, gid="edge")  # fmt: skip
