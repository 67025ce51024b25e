"""The tracker that a training loop talks to: it measures epochs and hands each row on.

On ranks other than 0 every method returns at once, nothing is written and MLflow is never imported.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.run_target import RunTarget, absolute_uri
from mlflow_ddpm.tracking import batch_values, epoch_statistics, probes
from mlflow_ddpm.tracking.batch_values import BatchValues, EpochBatches, Scalar
from mlflow_ddpm.tracking.environment import describe_environment
from mlflow_ddpm.tracking.null_recorder import NullRecorder, Recorder
from mlflow_ddpm.tracking.probes import compute_grad_norm
from mlflow_ddpm.tracking.run_recorder import RunRecorder, unix_ms
from mlflow_ddpm.tracking.shutdown import RunOutcome, ShutdownHandler, classify_exit
from mlflow_ddpm.tracking.timing import EpochTimer, rate

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

__all__ = ["EpochMetrics", "MetricsTracker", "compute_grad_norm"]

_log = logging.getLogger("mlflow_ddpm")
_EPOCH_MAX = 2**53 - 1  # what JSON readers and plots, which count in float64, still tell apart


class MetricsTracker:
    """Records a training run, epoch by epoch, on disk and in MLflow.

    Args:
        output_dir: where the mirror goes. A directory that holds an unfinished run of ours continues that run; one
            that holds a finished run is renamed (``out`` to ``out-1``), and a new run begins.
        config: hyperparameters: a mapping, a dataclass or an ``argparse.Namespace``; logged as dotted params.
        run_name: the new run's name in MLflow; MLflow makes one up by default.
        experiment_name: the new run's experiment, created if missing; default: MLflow's own settings.
        tracking_uri: the tracking store; default: MLflow's own settings.
        run_id: an existing run to log to; default: the active run, else ``MLFLOW_RUN_ID``, else a new run.
        tags: further tags of the run.
        device: the training's device, for memory and timing; default: the CUDA device in use, if any.
        resume: add epochs to a run that had finished.
        reduce_over_ranks: let losses be means, and samples sums, over all ranks. ``end_epoch`` then is a collective
            that every rank must enter. By default rank 0's own batches count, and its samples times the ranks.
        system_metrics: fill the run's system tab in MLflow; default: ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING``.
        clock: seconds from any origin, never going back.
        now_ms: Unix time in milliseconds.

    Raises:
        UsageError: ``output_dir`` is a file, cannot be made, holds another run than the one asked for, or is being
            written by another tracker, of this process or another.
        MirrorError: ``output_dir`` holds files that are not ours or are damaged; they are left untouched.
        StoreRefusedError: there is no run ``run_id``. A store that is away raises nothing: what waits is sent later.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        config: object = None,
        run_name: str | None = None,
        experiment_name: str | None = None,
        tracking_uri: str | Path | None = None,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        device: torch.device | str | None = None,
        resume: bool = False,
        reduce_over_ranks: bool = False,
        system_metrics: bool | None = None,
        clock: Callable[[], float] = time.perf_counter,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self.output_dir = Path(output_dir).absolute()
        self.rank = ranks.rank()
        self._device = device
        self._stopwatch = EpochTimer(clock, device)
        self._world_size = ranks.world_size()
        self._reduce = reduce_over_ranks and self._world_size > 1
        self._measures = self.rank == 0 or self._reduce
        self._batches: BatchValues | None = None
        self._epoch = -1
        self._warned_nonfinite = False
        self._recorder: Recorder = NullRecorder()
        self._shutdown: ShutdownHandler | None = None
        if self.rank == 0:
            self._recorder = RunRecorder(
                self.output_dir,
                RunTarget(absolute_uri(tracking_uri) if tracking_uri else "", run_id, run_name, experiment_name),
                config=config,
                tags=tags or {},
                environment=describe_environment(device),
                resume=resume,
                now_ms=now_ms,
                system_metrics=system_metrics,
            )
            try:
                self._shutdown = ShutdownHandler(self._end)
            except BaseException as error:
                self._recorder.close(classify_exit(error), 1.0)
                raise

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id, which the first use waits for, at most ten seconds; None on other ranks."""
        return self._recorder.run_id

    @property
    def tracking_uri(self) -> str | None:
        """The tracking store's URI; None on other ranks."""
        return self._recorder.tracking_uri

    @property
    def next_epoch(self) -> int:
        """The first epoch without a row: 0 in a fresh directory, and on other ranks."""
        return self._recorder.next_epoch

    def start_epoch(self, epoch: int) -> None:
        """Begin an epoch: the clock starts, and CUDA's peak memory anew.

        Raises:
            UsageError: ``epoch`` is not a whole number >= 0, or the last epoch has not ended.
        """
        if isinstance(epoch, bool) or not hasattr(epoch, "__index__") or not 0 <= epoch <= _EPOCH_MAX:
            raise UsageError(f"epoch must be a whole number >= 0, got {epoch!r}")
        if self._batches is not None:
            raise UsageError(f"epoch {self._epoch} is still open; call end_epoch before start_epoch({epoch})")
        self._recorder.require_open("start_epoch")
        if not self._measures:
            return
        if self._shutdown:
            self._shutdown.epoch_begins()
        self._epoch = int(epoch)
        self._batches = BatchValues()
        probes.reset_cuda_peak(self._device)
        self._stopwatch.start()

    def log_batch(
        self, loss: Scalar, lr: Scalar | None = None, grad_norm: Scalar | None = None, batch_size: int | None = None
    ) -> None:
        """Note one batch, in microseconds; tensors stay on their device, unread, until the epoch ends.

        Args:
            loss: the batch's loss, a number or a 0-d tensor on any device. Do not change it in place afterwards, and
                pass a clone of what a replayed CUDA graph writes anew each time.
            lr: the learning rate of this step; of a tensor, its value now.
            grad_norm: the global L2 norm of the gradients before clipping: what ``clip_grad_norm_`` returns, or
                :func:`compute_grad_norm`; as with ``loss``, not to be changed afterwards.
            batch_size: samples in this rank's batch; throughput in samples is measured if every batch tells it.

        Raises:
            UsageError: no epoch is open, or a value is no single number.
        """
        batches = self._batches
        if batches is None:
            self._refuse("log_batch")
            return
        batches.add(loss, lr, grad_norm, batch_size)

    def paused(self) -> AbstractContextManager[None]:
        """Keep what happens inside (sampling, evaluation) out of the epoch's time. Waits for the device twice."""
        return self._stopwatch.paused()

    def end_epoch(
        self,
        model: torch.nn.Module | None = None,
        ema_model: torch.nn.Module | Mapping[str, torch.Tensor] | None = None,
        extra: Mapping[str, Scalar | None] | None = None,
    ) -> EpochMetrics | None:
        """End the epoch; its row is durable on disk when this returns, and delivered to MLflow soon after.

        Args:
            model: the live model; with ``ema_model``, their distance is measured.
            ema_model: its EMA: a module, plain or wrapped, ``AveragedModel``, or a mapping of tensors.
            extra: further scalars of this epoch, recorded everywhere the others go. None means not measured.

        Returns:
            The row; None on ranks other than 0.

        Raises:
            UsageError: no epoch is open, an extra's name would be refused by MLflow or is taken, a value is no single
                number, or ``ema_model`` does not fit ``model``. The epoch stays open.
        """
        if self._batches is None:
            self._refuse("end_epoch")
            return None
        values = batch_values.extra_values(extra or {})
        if ema_model is not None and model is None:
            raise UsageError("end_epoch got ema_model without model; pass both, their distance is measured")
        elapsed = self._stopwatch.stop()
        memory = probes.read_cuda_memory(self._device)
        batches, readings = self._batches.batches, self._read(self._batches)
        if self.rank != 0:
            self._batches = None
            return None
        row = EpochMetrics(
            epoch=self._epoch,
            **epoch_statistics.statistics(readings)._asdict(),
            **memory._asdict(),
            lr=readings.lr,
            samples_per_sec=rate(readings.samples, elapsed),
            batches_per_sec=rate(batches, elapsed),
            ema_delta_norm=None if model is None or ema_model is None else probes.ema_distance(model, ema_model),
            epoch_time_sec=elapsed,
            cumulative_time_sec=self._recorder.seconds_before(self._epoch) + elapsed,
            extra=values,
            logged_at_ms=self._recorder.next_timestamp(),
        )
        self._batches = None
        self._recorder.write(row)
        if row.nonfinite_batches and not self._warned_nonfinite:
            self._warn_nonfinite(readings)
        return row

    def _read(self, batches: BatchValues) -> EpochBatches:
        """Read the epoch's batches, and let them speak for all ranks."""
        readings = batches.read()
        if self._reduce:
            return epoch_statistics.mean_over_ranks(readings)
        return readings if readings.samples is None else readings._replace(samples=readings.samples * self._world_size)

    def log_image(self, name: str, image: NDArray[np.uint8], epoch: int) -> None:
        """Keep a picture of an epoch, such as a grid of samples, on disk and in MLflow's image view.

        Args:
            name: letters, digits, ``_`` and ``-``; pictures of one name follow each other by epoch.
            image: uint8, (H, W), (H, W, 3) or (H, W, 4).
            epoch: the MLflow step.

        Raises:
            UsageError: the name or the image is not of that form.
        """
        self._recorder.write_image(name, image, epoch)

    def log_artifact(self, path: str | Path) -> None:
        """Log a file among the run's artifacts, under ``metrics/``; plots and reports of a tracker come this way."""
        self._recorder.write_artifact(Path(path))

    def flush(self, timeout: float = 30.0) -> bool:
        """Bring JSON and MLflow up to this moment; return whether MLflow has everything, within ``timeout`` seconds."""
        return self._recorder.flush(timeout)

    def close(self, status: str | None = None, error: BaseException | None = None, *, timeout: float = 30.0) -> bool:
        """Flush everything and end the run, if the tracker started it. An epoch still open is dropped.

        Args:
            status: FINISHED, FAILED or KILLED; default: FINISHED, or what follows from ``error``.
            error: what ended the training; its type and message become tags of the run.
            timeout: seconds to wait for MLflow at most; what is not delivered by then stays in ``output_dir``.

        Returns:
            Whether MLflow has everything.
        """
        if status not in (None, "FINISHED", "FAILED", "KILLED"):
            raise UsageError(f"status must be FINISHED, FAILED or KILLED, got {status!r}")
        outcome = classify_exit(error)
        return self._end(outcome._replace(status=status or outcome.status), timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(self._shutdown.outcome_of(error) if self._shutdown else classify_exit(error))

    def _end(self, outcome: RunOutcome, timeout: float = 30.0) -> bool:
        self._batches = None
        try:
            return self._recorder.close(outcome, timeout)
        finally:
            if self._shutdown:
                self._shutdown.stop()  # whatever came in between: the handlers are as they were before

    def _warn_nonfinite(self, readings: EpochBatches) -> None:
        self._warned_nonfinite = True
        bad = epoch_statistics.nonfinite_batches(readings)
        _log.warning(
            "the loss or gradient norm was not finite in %d batches of epoch %d, first in batch %d; such batches "
            "are counted in nonfinite_batches and left out of the statistics, from here on without a word",
            len(bad),
            self._epoch,
            bad[0],
        )

    def _refuse(self, method: str) -> None:
        """Raise for a call without an open epoch; on a rank that measures nothing there is none to open."""
        self._recorder.require_open(method)
        if self._measures:
            raise UsageError(f"{method} needs an open epoch; call start_epoch first")
