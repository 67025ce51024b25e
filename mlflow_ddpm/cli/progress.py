"""How far a training is, for people: a bar on a terminal, one plain line an epoch elsewhere (logs, CI, Slurm)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, NoReturn

from mlflow_ddpm.core.extra_metrics import metric
from mlflow_ddpm.core.metrics import EpochMetrics

if TYPE_CHECKING:
    from tqdm import tqdm

    from mlflow_ddpm.ddpm.train import Progress

__all__ = ["Bar", "Lines", "download_on", "progress_on"]

_SHOWN = ("loss_mean", "lr", "grad_norm", "samples_per_sec", "epoch_time_sec")


class Lines:
    """One line an epoch."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._epochs = 0

    def on_batch(self, epoch: int, batch: int, batches: int, epochs: int) -> None:  # noqa: ARG002
        """Note how many epochs there will be."""
        self._epochs = epochs

    def on_epoch(self, row: EpochMetrics) -> None:
        """Print the epoch's line."""
        cells = [_cell(name, row.values()[name]) for name in _SHOWN]
        cells += [
            _cell(name, value) for name, value in sorted(row.extra.items()) if metric(name).category != "Diagnostics"
        ]
        line = f"epoch {row.epoch} ({row.epoch + 1} of {self._epochs})  " + "  ".join(cell for cell in cells if cell)
        self._stream.write(line + "\n")
        self._stream.flush()


class Bar:
    """A tqdm bar over all batches of the run; the loss shown is the mean of the last whole epoch."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._bar: tqdm[NoReturn] | None = None

    def on_batch(self, epoch: int, batch: int, batches: int, epochs: int) -> None:
        """Move the bar."""
        if self._bar is None:
            from tqdm import tqdm

            done = epoch * batches  # a resumed run starts where it was
            self._bar = tqdm(total=epochs * batches, initial=done, file=self._stream, unit="batch", dynamic_ncols=True)
        if batch == 1:
            self._bar.set_description(f"epoch {epoch} ({epoch + 1} of {epochs})", refresh=False)
        self._bar.update()

    def on_epoch(self, row: EpochMetrics) -> None:
        """Show the epoch's loss."""
        if self._bar is not None and row.loss_mean is not None:
            self._bar.set_postfix_str(f"loss {row.loss_mean:.4f}")

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def progress_on(stream: IO[str]) -> Iterator[Progress]:
    """Yield what suits the stream, and see that log lines and a bar do not tear each other."""
    if not stream.isatty():
        yield Lines(stream)
        return
    from tqdm.contrib.logging import logging_redirect_tqdm

    bar = Bar(stream)
    try:
        with logging_redirect_tqdm():
            yield bar
    finally:
        bar.close()


@contextlib.contextmanager
def download_on(stream: IO[str]) -> Iterator[Callable[[int, int], None]]:
    """Yield what shows how many bytes of how many are there: a bar on a terminal, elsewhere a line every tenth."""
    if stream.isatty():
        from tqdm import tqdm

        with tqdm(file=stream, unit="B", unit_scale=True, desc="download", dynamic_ncols=True) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield show
        return
    shown = -1

    def tell(done: int, total: int) -> None:
        nonlocal shown
        if done * 10 // total > shown:
            shown = done * 10 // total
            stream.write(f"download: {done / 1e6:.0f} of {total / 1e6:.0f} MB\n")
            stream.flush()

    yield tell


def _cell(name: str, value: float | None) -> str:
    """Return "loss_mean 0.123", or "310 samples/s" for a metric with a unit."""
    if value is None:
        return ""
    unit = metric(name).unit
    return f"{value:.4g} {unit}" if unit else f"{name} {value:.4g}"
