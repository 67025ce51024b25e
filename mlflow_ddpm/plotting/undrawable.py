"""Marks for what lines and bars cannot show: values that are not finite or off scale, missing rows, resumes.

Each function marks the axes and returns the note that explains the mark. Of several runs, marks have the run's colour
and notes its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mlflow_ddpm.core.formatting import count_of
from mlflow_ddpm.plotting.axes import pixel_columns
from mlflow_ddpm.plotting.lines import Trace
from mlflow_ddpm.plotting.notes import Note
from mlflow_ddpm.plotting.series import GAP, Floats, Series, nonfinite_kinds
from mlflow_ddpm.plotting.text import MAX_NAMED, epochs_text, number
from mlflow_ddpm.plotting.themes import setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Marked = Sequence[tuple[Trace, Floats]]  # of each run with a mark, the epochs that have one
NONFINITE = "C6"  # the colour of what was measured and is not finite
_EDGE = 0.025  # of the height of the axes, where marks of what cannot be drawn are put


def mark_nonfinite(ax: Axes, traces: Sequence[Trace]) -> Note | None:
    """Mark at the bottom of the axes the epochs that were measured and are not finite."""
    marked = [(trace, trace.series.nonfinite_epochs) for trace in traces if len(trace.series.nonfinite_epochs)]
    if not marked:
        return None
    color = _mark_edge(ax, marked, "x", NONFINITE)
    kinds = nonfinite_kinds([trace.series for trace, _ in marked])
    where = "; ".join(trace.mention(epochs_text(trace.series, epochs)) for trace, epochs in marked)
    count = sum(len(epochs) for _, epochs in marked)
    brief = f"{kinds} in {count_of(len(marked), 'run')}" if marked[0][0].name else f"{count:,} {kinds}"
    return Note(f"{kinds} ({where})", color, brief, "x", kinds)


def mark_offscale(ax: Axes, traces: Sequence[Trace]) -> list[Note]:
    """Mark at the edges of the axes the epochs that exceed the limits, and note how far they go."""
    floor, ceiling = ax.get_ylim()
    above = [(trace, trace.series.epoch[trace.series.value > ceiling]) for trace in traces]
    below = [(trace, trace.series.epoch[trace.series.value < floor]) for trace in traces]
    notes = _mark_beyond(ax, above, "^", "up"), _mark_beyond(ax, below, "v", "down")
    return [note for note in notes if note is not None]


def _mark_beyond(ax: Axes, beyond: Marked, marker: str, way: str) -> Note | None:
    beyond = [(trace, epochs) for trace, epochs in beyond if len(epochs)]
    if not beyond:
        return None
    extreme = np.nanmax if marker == "^" else np.nanmin
    values = [float(extreme(trace.series.finite)) for trace, _ in beyond]
    farthest = int(np.argmax(np.abs(values)))
    if not beyond[0][0].name:  # all series of one run share the marks
        beyond = [(beyond[0][0], np.unique(np.concatenate([epochs for _, epochs in beyond])))]
    color = _mark_edge(ax, beyond, marker, str(setting("text.color")))
    brief = f"{way} to {number(values[farthest])}"
    where = beyond[farthest][0].name if beyond[0][0].name else epochs_text(beyond[0][0].series, beyond[0][1])
    return Note(f"off scale: {brief} ({where})", color, brief, marker, brief)


def mark_not_positive(ax: Axes, traces: Sequence[Trace], what: str) -> Note | None:
    """Mark the epochs whose value a logarithmic axis cannot show."""
    marked = [(trace, trace.series.epoch[trace.series.value <= 0]) for trace in traces]
    marked = [(trace, epochs) for trace, epochs in marked if len(epochs)]
    if not marked:
        return None
    color = _mark_edge(ax, marked, "v", NONFINITE)
    where = ", ".join(trace.name or epochs_text(trace.series, epochs) for trace, epochs in marked)
    brief = f"{what} not above zero"
    return Note(f"{brief}: {where}", color, brief, "v", brief)


def mark_resumes(ax: Axes, traces: Sequence[tuple[Trace, Sequence[int]]]) -> Note | None:
    """Mark where runs were resumed, each a trace and the first epochs after its resumes, between the two rows."""
    marked = [(trace, np.array(epochs)) for trace, epochs in traces if epochs]
    if not marked:
        return None
    for trace, epochs in marked:
        for epoch in epochs:
            ax.axvline(
                _resume_place(trace.series, epoch), color=trace.color if trace.name else setting("axes.labelcolor"),
                linestyle=":", zorder=0.9, gid="resumed", linewidth=0.6 * setting("lines.linewidth"),
            )  # fmt: skip
    trace, epochs = marked[0]
    if trace.name:
        where = f": {', '.join(trace.name for trace, _ in marked)}"
    else:
        where = f" {len(epochs)} times" if len(epochs) > MAX_NAMED else f" at {epochs_text(trace.series, epochs)}"
    return Note(f"resumed{where}", _only_color(marked, ""), "resumed", ":", "resumed")


def _resume_place(series: Series, epoch: int) -> float:
    """Return the middle between a row and the one before; half the usual spacing before it where rows are missing."""
    gaps = epoch - series.epoch
    return float(epoch - np.min(gaps, initial=series.spacing, where=gaps > 0) / 2)


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


def _only_color(marked: Marked, own: str) -> str:
    """Return ``own`` in a picture of one run; of several, the colour of the only run that is marked, "" for more."""
    if not marked[0][0].name:
        return own
    return marked[0][0].color if len(marked) == 1 else ""


def _mark_edge(ax: Axes, marked: Marked, marker: str, own: str) -> str:
    """Mark epochs at an edge of the axes, and return the colour of the note.

    Of several runs, marks have the run's colour; of one, ``own``. Each stretch of neighbours has one mark, on a line
    as long as the stretch.
    """
    first, last = ax.get_xlim()
    size, where = 1.2 * setting("lines.markersize"), ax.get_xaxis_transform()
    height = 1 - _EDGE if marker == "^" else _EDGE
    for trace, epochs in marked:
        color = trace.color if trace.name else own
        touching = max(GAP * trace.series.spacing, 3 * (last - first) / pixel_columns(ax))
        stretches = np.split(epochs, np.flatnonzero(np.diff(epochs) > touching) + 1)
        for stretch in stretches:
            if len(stretch) > 1:
                ax.plot(
                    stretch[[0, -1]], [height, height], color=color, transform=where, clip_on=False, gid="stretch",
                    solid_capstyle="butt", linewidth=size / 3,
                )  # fmt: skip
        middles = [(stretch[0] + stretch[-1]) / 2 for stretch in stretches]
        ax.plot(
            middles, [height] * len(middles), marker, color=color, markersize=size, transform=where,
            markeredgewidth=size / 4, clip_on=False, zorder=6, gid="edge",
        )  # fmt: skip
    return _only_color(marked, own)
