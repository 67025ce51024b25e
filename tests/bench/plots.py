"""All eleven plots of a run, beside the plain way to draw them, and whether ten thousand epochs cost more than fifty.

The plain way is what one writes first with pyplot: ``plt.subplots``, a bar an epoch or a line over all of them,
``tight_layout``, ``savefig``, for each of the eleven at the same size and resolution. It knows no missing value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from growth import made_up_rows
from stopwatches import Effort, Pair, compare
from table import Row, at_most, seconds

from mlflow_ddpm import generate_all_plots
from mlflow_ddpm.analysis.frame import frame_from_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["measure"]

_LIMITS = {50: 0.6, 500: 0.3, 3000: 0.12}  # epochs, and the share of the plain way's time
_MANY, _FLAT = 10_000, 1.5
_SIZE, _GRID_SIZE, _DPI = (7.2, 4.5), (14.4, 11.3), 180


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of issue 5, point 5."""
    place = effort.place / "plots"
    place.mkdir()
    for epochs, limit in list(_LIMITS.items())[: effort.of(len(_LIMITS), 1)]:
        history = _history(effort.of(epochs, 5))
        repeats = effort.of(5 if epochs < max(_LIMITS) else 1, 1)
        pair = compare(_ours(history, place), _plain_way(history, place), repeats=repeats, is_warm=effort.quick)
        yield _row(f"11 plots of {len(history):,} epochs, beside the plain way", pair, limit)
    few, many = _history(50 if not effort.quick else 5), _history(effort.of(_MANY, 20))
    pair = compare(_ours(many, place), _ours(few, place), repeats=effort.of(5, 1), is_warm=effort.quick)
    yield _row(f"11 plots of {len(many):,} epochs, beside {len(few)}", pair, _FLAT)


def _row(what: str, pair: Pair, limit: float) -> Row:
    return Row("5.5", what, seconds(pair.subject), seconds(pair.baseline), pair.ratio, at_most(limit, pair.ratio))


def _history(epochs: int) -> pd.DataFrame:
    """Return a run whose numbers wander, so that no picture is a straight line."""
    frame = frame_from_rows(made_up_rows(epochs))
    for i, name in enumerate(frame.columns[1:16]):
        frame[name] = 2.0 + ((frame["epoch"] * (37 + i)) % 101) / 101 + 40.0 / (frame["epoch"] + 1)
    return frame


def _ours(history: pd.DataFrame, place: Path) -> Callable[[], object]:
    return lambda: generate_all_plots(history, place)


def _plain_way(history: pd.DataFrame, place: Path) -> Callable[[], object]:
    """Return what draws the same eleven with pyplot."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    columns = {name: history[name].to_numpy(dtype="float64") for name in history.columns}
    panels = list(_PANELS.items())

    def draw_all() -> None:
        for name, panel in panels:
            figure, ax = plt.subplots(figsize=_SIZE, dpi=_DPI)
            panel(ax, columns)
            _finish(name, [ax])
            plt.tight_layout()
            plt.savefig(place / f"plain_{name}.png")
            plt.close(figure)
        figure, grid = plt.subplots(3, 3, figsize=_GRID_SIZE, dpi=_DPI)
        for ax, (name, panel) in zip(grid.flat, (p for p in panels if p[0] != "loss_distribution"), strict=True):
            panel(ax, columns)
            _finish(name, [ax])
        plt.tight_layout()
        plt.savefig(place / "plain_training_dashboard.png")
        plt.close(figure)

    return draw_all


def _finish(name: str, axes: Sequence[Axes]) -> None:
    for ax in axes:
        ax.set_title(name)
        ax.set_xlabel("epoch")
        ax.grid(visible=True, alpha=0.3)


Columns = dict[str, Any]


def _loss(ax: Axes, of: Columns) -> None:
    ax.plot(of["epoch"], of["loss_mean"], label="mean")
    ax.fill_between(of["epoch"], of["loss_min"], of["loss_max"], alpha=0.3, label="min/max")
    best = of["loss_mean"].argmin()
    ax.plot(of["epoch"][best], of["loss_mean"][best], "*", markersize=12)
    ax.legend()


def _loss_log(ax: Axes, of: Columns) -> None:
    _loss(ax, of)
    ax.set_yscale("log")


def _distribution(ax: Axes, of: Columns) -> None:
    ax.plot(of["epoch"], of["loss_mean"], label="mean")
    low, high = of["loss_mean"] - of["loss_std"], of["loss_mean"] + of["loss_std"]
    ax.fill_between(of["epoch"], low, high, alpha=0.3, label="1 std")
    ax.legend()


def _derivative(ax: Axes, of: Columns) -> None:
    import numpy as np

    steps = np.diff(np.asarray(of["loss_mean"]))
    ax.bar(of["epoch"][1:], steps, color=["green" if step < 0 else "red" for step in steps])


def _memory(ax: Axes, of: Columns) -> None:
    for name in ("gpu_allocated_mb", "gpu_reserved_mb", "gpu_peak_mb"):
        ax.plot(of["epoch"], of[name], label=name)
    ax.legend()


def _line(name: str) -> Callable[[Axes, Columns], object]:
    return lambda ax, of: ax.plot(of["epoch"], of[name])


def _bars(name: str) -> Callable[[Axes, Columns], object]:
    return lambda ax, of: ax.bar(of["epoch"], of[name])


_PANELS: dict[str, Callable[[Axes, Columns], object]] = {
    "loss_linear": _loss,
    "loss_log": _loss_log,
    "loss_distribution": _distribution,
    "learning_rate": _line("lr"),
    "grad_norm": _line("grad_norm"),
    "throughput": _bars("samples_per_sec"),
    "gpu_memory": _memory,
    "ema_divergence": _line("ema_delta_norm"),
    "epoch_timing": _bars("epoch_time_sec"),
    "loss_derivative": _derivative,
}
