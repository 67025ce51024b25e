"""How far a training or a download is: plain lines, and below them a bar on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING

from mlflow_ddpm.cli.terminal import console_on
from mlflow_ddpm.core.extra_metrics import metric
from mlflow_ddpm.core.metrics import EpochMetrics

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

_SHOWN = ("loss_mean", "lr", "grad_norm", "samples_per_sec", "epoch_time_sec")
_REFRESHES_PER_SEC = 4
_GAP = "  "


class TrainingProgress:
    """One line an epoch; ``bar`` moves with every batch of the run."""

    def __init__(self, bar: Progress) -> None:
        self._bar, self._epochs = bar, 0

    def on_batch(self, epoch: int, batch: int, batches: int, epochs: int) -> None:
        """Move the bar; a resumed run starts where it was."""
        self._epochs = epochs
        if not self._bar.task_ids:
            self._bar.add_task("", total=epochs * batches)
            _start(self._bar)
        description = f"epoch {epoch} ({epoch + 1} of {epochs})"
        self._bar.update(self._bar.task_ids[0], completed=epoch * batches + batch, description=description)

    def on_epoch(self, row: EpochMetrics) -> None:
        """Print the epoch's line: on a terminal, as much of it as has room."""
        cells = [_cell(name, row.values()[name]) for name in _SHOWN]
        cells += [
            _cell(name, value) for name, value in sorted(row.extra.items()) if metric(name).category != "Diagnostics"
        ]
        line = f"epoch {row.epoch} ({row.epoch + 1} of {self._epochs})"
        for cell in filter(None, cells):
            if len(line + _GAP + cell) > self._bar.console.width:
                break
            line += _GAP + cell
        self._bar.console.print(line)


@contextlib.contextmanager
def progress_on(stream: IO[str]) -> Iterator[TrainingProgress]:
    """Yield what shows a training's progress."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with _bar(console_on(stream), *columns) as bar:
        yield TrainingProgress(bar)


@contextlib.contextmanager
def download_on(stream: IO[str]) -> Iterator[Callable[[int, int], None]]:
    """Yield what shows how many of a download's bytes are there: a bar on a terminal, else a line every tenth."""
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = ("download", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with _bar(console_on(stream), *columns) as bar:
        task = bar.add_task("", total=None)
        _start(bar)
        if bar.disable:
            yield _tenths(bar.console)
        else:
            yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def _bar(console: Console, *columns: str | ProgressColumn) -> Iterator[Progress]:
    """Yield a bar that is shown on a terminal alone, from :func:`_start` on."""
    from rich.progress import Progress

    bar = Progress(
        *columns,
        console=console,
        transient=True,
        redirect_stdout=False,  # it may be a file
        refresh_per_second=_REFRESHES_PER_SEC,
        disable=not console.is_terminal,
    )
    try:
        yield bar
    finally:
        if not bar.disable:  # rich would end the line of a file
            bar.stop()


def _start(bar: Progress) -> None:
    bar.start()
    bar.console.show_cursor()  # rich hides it, and a process that is killed could not bring it back


def _tenths(console: Console) -> Callable[[int, int], None]:
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        if done * 10 // total > shown:
            shown = done * 10 // total
            console.print(f"download: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    return show


def _cell(name: str, value: float | None) -> str:
    """Return "loss_mean 0.123", or "310 samples/s" for a metric with a unit."""
    if value is None:
        return ""
    unit = metric(name).unit
    return f"{value:.4g} {unit}" if unit else f"{name} {value:.4g}"
