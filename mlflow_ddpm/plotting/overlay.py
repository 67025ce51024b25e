"""Several runs in one panel: what a picture of one run shows, as one line a run in the run's own colour.

Axes, limits, gaps and envelopes are those of the pictures of one run. What a line cannot show is marked in its colour
and said in words, with the run's name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mlflow_ddpm.analysis.frame import RESUMED
from mlflow_ddpm.core.extra_metrics import axis_label
from mlflow_ddpm.plotting.annotations import Note, empty, end_labels, epochs_text, note, nothing_to_draw, number
from mlflow_ddpm.plotting.axes import ems, epoch_axis, linear_axis, log_axis, spike_limit
from mlflow_ddpm.plotting.marks import EDGE, at_edge, band, gathered, line
from mlflow_ddpm.plotting.run_styles import RunLine, with_short_names
from mlflow_ddpm.plotting.series import Series, changes, series

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["BANDS", "OVERLAYS", "Overlay", "draw_overlay"]

BANDS = 3  # so many runs at most show their spread as a band; more would be mud
_NAME_SHARE = 0.6  # of the width of the axes in ems, how many letters a name may have
_EARLY, _RARE = 0.1, 0.02  # of a run's epochs, how many may run off scale: of a loss, and of anything else


class Overlay(NamedTuple):
    """What one picture shows of each run."""

    metric: str
    why_not: str  # it may not have been measured
    otherwise: str = ""  # the metric that is drawn if no run measured the first
    spikes: float = _RARE
    from_zero: bool = False
    best: bool = False  # the lowest value is worth a star
    log: bool = False
    change: bool = False  # from the epoch before
    spread: str = ""  # the metric that is drawn as a band to either side

    @property
    def label(self) -> str:
        """Return the label of the value axis."""
        return f"Change of {axis_label(self.metric).lower()}" if self.change else axis_label(self.metric)

    def of(self, history: pd.DataFrame) -> Series:
        """Return what is drawn of a run."""
        of = series(history, self.metric)
        return changes(of) if self.change else of


_LOSS = Overlay("loss_mean", "log_batch was never called", spikes=_EARLY)

OVERLAYS: dict[str, Overlay] = {  # by the name of the picture of one run
    "loss_linear": _LOSS._replace(best=True),
    "loss_log": _LOSS._replace(best=True, log=True),
    "loss_distribution": _LOSS._replace(spread="loss_std"),
    "learning_rate": Overlay("lr", "log_batch got no lr"),
    "grad_norm": Overlay("grad_norm", "log_batch got no grad_norm"),
    "throughput": Overlay("samples_per_sec", "no batch was counted", otherwise="batches_per_sec", from_zero=True),
    "gpu_memory": Overlay("gpu_peak_mb", "no CUDA device"),
    "ema_divergence": Overlay("ema_delta_norm", "end_epoch got no ema_model"),
    "epoch_timing": Overlay("epoch_time_sec", "no epoch was timed", from_zero=True),
    "loss_derivative": _LOSS._replace(change=True, from_zero=True),
}
Drawn = Sequence[tuple[RunLine, Series]]


def draw_overlay(ax: Axes, overlay: Overlay, runs: Sequence[RunLine], *, named: bool) -> None:
    """Draw one line a run; ``named`` writes each run's name beside the end of its line."""
    overlay = _measured_one(overlay, runs)
    runs = with_short_names(runs, int(_NAME_SHARE * ems(ax)))
    every = [(run, overlay.of(run.history)) for run in runs]
    drawn = [(run, _above_zero(of) if overlay.log else of) for run, of in every]
    drawn = [(run, of) for run, of in drawn if len(of.finite)]
    if not drawn:
        _say_why_not(ax, overlay, runs)
        return
    _epoch_axis(ax, drawn)
    _value_axis(ax, overlay, drawn)
    _zero_line(ax, overlay)
    for run, of in drawn:
        if overlay.spread and len(drawn) <= BANDS:
            _band(ax, run, of, overlay.spread)
    aligned = _on_the_same_epochs(drawn)
    for run, of in aligned:
        line(ax, of, run.color, run.style)
    best = _stars(ax, drawn) if overlay.best else None
    marks = [_broken(ax, every), _offscale(ax, drawn), _unseen(ax, every) if overlay.log else None]
    rest = [_spread_note(overlay, drawn), _unmeasured(every), _resumed(ax, drawn), gathered(ax, aligned[0][1])]
    if named:
        _names(ax, drawn)
    note(ax, [best, *marks, *rest])


def _measured_one(overlay: Overlay, runs: Sequence[RunLine]) -> Overlay:
    """Return the overlay with the metric that there is; one unit serves all runs of a picture."""
    first, second = (
        any(series(run.history, name).measured for run in runs) for name in (overlay.metric, overlay.otherwise)
    )
    return overlay._replace(metric=overlay.otherwise) if second and not first else overlay


def _above_zero(of: Series) -> Series:
    return replace(of, value=np.where(of.value > 0, of.value, np.nan))


def _say_why_not(ax: Axes, overlay: Overlay, runs: Sequence[RunLine]) -> None:
    """Say why no run has anything to draw, in the words of the picture of one run."""
    every = [series(run.history, overlay.metric) for run in runs]
    of = max(every, key=lambda of: (len(of.finite), of.measured, len(of.epoch)))
    if nothing_to_draw(ax, of, overlay.why_not):
        return
    if overlay.change:
        empty(ax, "no change to show yet:\nit takes two epochs in a row")
    else:
        empty(ax, "no loss above zero:\na log axis cannot show it")


def _epoch_axis(ax: Axes, drawn: Drawn) -> None:
    """Span the epochs of all runs."""
    import pandas as pd

    first = min(float(of.epoch[0]) for _, of in drawn)
    epoch_axis(ax, pd.DataFrame({"epoch": [first, _last_epoch(drawn)]}))


def _last_epoch(drawn: Drawn) -> float:
    return max(float(of.epoch[-1]) for _, of in drawn)


def _value_axis(ax: Axes, overlay: Overlay, drawn: Drawn) -> None:
    """Fit the axis to what is usual in each run: a spike is one among its own run's values, a whole run never is."""
    if overlay.log:
        log_axis(ax, overlay.label, *(of.finite for _, of in drawn))
        return
    limits = [spike_limit(of.finite, overlay.spikes) for _, of in drawn]
    lows = [max(of.finite.min(), -limit) for (_, of), limit in zip(drawn, limits, strict=True)]
    highs = [min(of.finite.max(), limit) for (_, of), limit in zip(drawn, limits, strict=True)]
    if overlay.best:
        highs.append(max(of.finite.min() for _, of in drawn))  # no run's star is off scale
    zero = np.zeros(1 if overlay.from_zero else 0)
    linear_axis(ax, overlay.label, np.array([min(lows), max(highs)]), zero)


def _zero_line(ax: Axes, overlay: Overlay) -> None:
    if overlay.change:
        spine = ax.spines["bottom"]
        ax.axhline(0, color=spine.get_edgecolor(), linewidth=spine.get_linewidth(), gid="zero")


def _on_the_same_epochs(drawn: Drawn) -> Drawn:
    """Return the runs with the epochs of all, so that what depends on their number (dots, columns) is alike in all."""
    every = np.unique(np.concatenate([of.epoch for _, of in drawn]))
    found = []
    for run, of in drawn:
        value = np.full(len(every), np.nan)
        value[np.searchsorted(every, of.epoch)] = of.value
        found.append((run, replace(of, epoch=every, value=value)))
    return found


def _names(ax: Axes, drawn: Drawn) -> None:
    """Write each run's name beside the end of its line, legible on the grid."""
    from matplotlib import rcParams
    from matplotlib.patheffects import withStroke

    end_labels(ax, _last_epoch(drawn), [(float(of.finite[-1]), run.name, run.ink) for run, of in drawn])
    for text in ax.texts:
        if text.get_gid() == "end":
            text.set_path_effects([withStroke(linewidth=2.5, foreground=rcParams["axes.facecolor"])])


def _band(ax: Axes, run: RunLine, of: Series, spread: str) -> None:
    std = series(run.history, spread).value
    band(ax, replace(of, value=of.value - std), replace(of, value=of.value + std), run.color)


def _stars(ax: Axes, drawn: Drawn) -> Note:
    """Mark the best epoch of each run, and say which run's is best of all."""
    from matplotlib import rcParams

    size, edge = 2.6 * rcParams["lines.markersize"], rcParams["axes.facecolor"]
    found = []
    for run, of in drawn:
        i = int(np.nanargmin(of.value))
        at = float(of.epoch[i]), float(of.value[i])
        ax.plot(
            at[:1], at[1:], "*", color=run.color, markersize=size, markeredgecolor=edge,
            zorder=5, clip_on=False, gid="best",
        )  # fmt: skip
        found.append((at[1], at[0], run))
    value, epoch, winner = min(found, key=lambda f: f[:2])
    text = f"\u2605 best of all: {winner.name}, {number(value)} at epoch {epoch:.0f}"
    return Note(text, winner.ink, f"\u2605 best of all: {number(value)}")


def _broken(ax: Axes, every: Drawn) -> Note | None:
    """Mark the epochs that were measured and are not finite, each in its run's colour, and say whose they are."""
    found = [(run, of) for run, of in every if len(of.broken)]
    for run, of in found:
        at_edge(ax, of.broken, EDGE, "x", run.color)
    if not found:
        return None
    kinds = " or ".join(kind for kind in ("NaN", "inf") if any(kind in of.broken_as for _, of in found))
    text = "; ".join(f"{run.name}, {epochs_text(of.broken)}" for run, of in found)
    return Note(f"\u00d7 {kinds} ({text})", _only_ink(found), f"\u00d7 {kinds} in {_runs_text(len(found))}")


def _offscale(ax: Axes, drawn: Drawn) -> Note | None:
    """Mark the epochs that exceed the limits, each in its run's colour, and say how far they go."""
    floor, ceiling = ax.get_ylim()
    beyond = [(run, of) for run, of in drawn if of.finite.max() > ceiling or of.finite.min() < floor]
    for run, of in beyond:
        at_edge(ax, of.epoch[of.value > ceiling], 1 - EDGE, "^", run.color)
        at_edge(ax, of.epoch[of.value < floor], EDGE, "v", run.color)
    parts = []
    for sign, way, extremes in (
        ("\u25b2", "up", [(of.finite.max(), run) for run, of in beyond if of.finite.max() > ceiling]),
        ("\u25bc", "down", [(of.finite.min(), run) for run, of in beyond if of.finite.min() < floor]),
    ):
        if extremes:
            value, run = max(extremes, key=lambda e: abs(e[0]))
            parts.append((f"{sign} {way} to {number(value)} ({run.name})", f"{sign} {way} to {number(value)}"))
    if not parts:
        return None
    return Note("  ".join(full for full, _ in parts), _only_ink(beyond), "  ".join(brief for _, brief in parts))


def _unseen(ax: Axes, every: Drawn) -> Note | None:
    """Mark the epochs whose value a log axis cannot show."""
    found = [(run, of) for run, of in every if (of.value <= 0).any()]
    for run, of in found:
        at_edge(ax, of.epoch[of.value <= 0], EDGE, "v", run.color)
    names = ", ".join(run.name for run, _ in found)
    brief = "\u25bc loss not above zero"
    return Note(f"{brief}: {names}", _only_ink(found), brief) if found else None


def _spread_note(overlay: Overlay, drawn: Drawn) -> Note | None:
    if not overlay.spread:
        return None
    if len(drawn) > BANDS:
        return Note(f"mean; \u00b1 1\u03c3 is drawn for up to {BANDS} runs", brief="mean")
    return Note("\u2501 mean  \u2588 \u00b1 1\u03c3")


def _unmeasured(every: Drawn) -> Note | None:
    """Say which runs have no value here at all."""
    names = [run.name for run, of in every if not of.measured]
    return Note(f"not measured: {', '.join(names)}", brief=f"not in {_runs_text(len(names))}") if names else None


def _resumed(ax: Axes, drawn: Drawn) -> Note | None:
    """Mark where a run was resumed, in its colour."""
    from matplotlib import rcParams

    runs = [run for run, _ in drawn if run.history.attrs.get(RESUMED)]
    for run in runs:
        for epoch in run.history.attrs[RESUMED]:
            thin = rcParams["lines.linewidth"] / 2
            ax.axvline(epoch - 0.5, color=run.color, linestyle=":", linewidth=thin, zorder=0.9, gid="resumed")
    if not runs:
        return None
    names = ", ".join(run.name for run in runs)
    return Note(f"\u250a resumed: {names}", _only_ink([(run, None) for run in runs]), "\u250a resumed")


def _only_ink(found: Sequence[tuple[RunLine, object]]) -> str:
    """Return the run's colour where the words speak of one run alone."""
    return found[0][0].ink if len(found) == 1 else ""


def _runs_text(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"
