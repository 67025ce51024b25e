"""What is measured of one epoch or window: its batches, its time, the device's memory."""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from mlflow_ddpm.core.formatting import count_of
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.tracking import epoch_statistics, probes
from mlflow_ddpm.tracking.batch_values import BatchValues, EpochBatches
from mlflow_ddpm.tracking.rank_sync import RankSync
from mlflow_ddpm.tracking.scalars import Scalar
from mlflow_ddpm.tracking.timing import EpochTimer, rate

_log = logging.getLogger("mlflow_ddpm")


class Measured(NamedTuple):
    """The measurements of one epoch or window, ready for its row."""

    fields: dict[str, Any]  # values of a row by name, less what only the run knows (number, cumulative time)
    batches: EpochBatches  # the batch values behind them

    @property
    def extras(self) -> dict[str, float]:
        """Means of the further scalars, over finite values."""
        means = {name: epoch_statistics.finite_mean(values) for name, values in self.batches.extras.items()}
        return {name: mean + 0.0 for name, mean in means.items() if mean is not None}


class EpochMeter:
    """Measures one epoch or window at a time, of ``world_size`` processes with as many samples each.

    If the ``peers`` reduce, losses are means, and samples sums, over all ranks; :meth:`read` then is a collective.
    """

    def __init__(self, device: Any, clock: Callable[[], float], world_size: int, peers: RankSync) -> None:
        self.peers = peers
        self.timer = EpochTimer(clock, device)
        self.batches: BatchValues | None = None  # None while nothing is open
        self._device, self._world_size = device, world_size
        self._has_warned_of_changes = False
        self._warned_of: set[bool] = set()  # batches that were not finite: whether they were skipped steps alone

    def open(self) -> None:
        """Begin: the clock starts, and CUDA's peak memory anew."""
        self.batches = BatchValues()
        probes.reset_cuda_peak(self._device)
        self.timer.start()

    def add(self, values: Mapping[str, Any], extras: Mapping[str, Scalar | None], *, is_untimed: bool) -> None:
        """Keep one batch's values. An untimed one was over when the clock started: the rates leave it out."""
        if self.batches is None:
            return
        self.batches.add(**values, extras=extras)
        if is_untimed:
            self.batches.start_rates()

    def add_extras(self, extras: Mapping[str, Scalar]) -> None:
        """Keep further scalars that came without a batch."""
        if self.batches is not None:
            self.batches.add_extras(extras)

    def drop(self) -> None:
        """Forget what is open."""
        self.batches = None

    def read(self) -> Measured:
        """Return what was measured up to here, with one wait for the device.

        Raises as ``RankSync.together`` and ``RankSync.require_known_world``.
        """
        values = self.batches or BatchValues()
        elapsed = self.timer.stop()
        memory = probes.read_cuda_memory(self._device)
        batches = self._over_all_ranks(values.read())
        self._warn_of_changes(values)
        batch_count: int | None = values.batches - values.untimed_batches
        samples = batches.samples
        if samples is not None:
            samples -= values.untimed_samples * self._world_size
        if values.untimed_batches and not batch_count:  # no batch was timed
            batch_count = samples = None
        fields = {
            **epoch_statistics.statistics(batches)._asdict(),
            **memory._asdict(),
            "batches": values.batches,
            "lr": batches.lr,
            "samples_per_sec": rate(samples, elapsed),
            "batches_per_sec": rate(batch_count, elapsed),
            "epoch_time_sec": elapsed,
        }
        return Measured(fields, batches)

    def _over_all_ranks(self, batches: EpochBatches) -> EpochBatches:
        if self.peers.reduces:
            return self.peers.together(partial(epoch_statistics.mean_over_ranks, batches))
        self.peers.require_known_world()
        if batches.samples is None or self._world_size == 1:
            return batches
        return batches._replace(samples=batches.samples * self._world_size)

    def _warn_of_changes(self, values: BatchValues) -> None:
        if values.is_changed_in_place and not self._has_warned_of_changes:
            self._has_warned_of_changes = True
            _log.warning(
                "a loss was changed in place after it was logged, so a later value was recorded; log loss.clone(), or "
                "change a copy"
            )

    def warn_of_nonfinite(self, row: EpochMetrics, batches: EpochBatches, rows_are: str = "epoch") -> None:
        """Log the first row with batches that were not finite, and the first after skipped steps that is a fault."""
        is_skipped = row.nonfinite_batches == row.skipped_steps
        if not row.nonfinite_batches or self._warned_of.intersection((False, is_skipped)):
            return
        self._warned_of.add(is_skipped)
        number = f"{rows_are} {row.epoch}"
        _log.warning(
            "the %s was not finite in %s of %s, first in batch %d; counted in %s and excluded "
            "from the statistics; further %s are not logged",
            "gradient norm (not the loss)" if is_skipped else "loss or gradient norm",
            count_of(row.nonfinite_batches, "batch", "batches"),
            number,
            epoch_statistics.nonfinite_batches(batches)[0],
            "skipped_steps, as GradScaler skips such steps," if is_skipped else "nonfinite_batches",
            "skipped steps" if is_skipped else "cases",
        )
