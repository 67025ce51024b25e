"""The tracker that a training loop talks to: it measures epochs, or windows of steps, and hands each row on.

On ranks other than 0 nothing is written or imported, and only ``next_epoch`` and ``reduce_over_ranks`` wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mlflow_ddpm.core import ranks
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.formatting import short_repr
from mlflow_ddpm.core.metrics import EpochMetrics
from mlflow_ddpm.storage.run_target import RunTarget
from mlflow_ddpm.storage.store_address import absolute_uri
from mlflow_ddpm.tracking.epoch_meter import EpochMeter
from mlflow_ddpm.tracking.live_points import LiveMeter
from mlflow_ddpm.tracking.null_recorder import NullRecorder, Recorder
from mlflow_ddpm.tracking.probes import compute_grad_norm
from mlflow_ddpm.tracking.rank_sync import RankSync, warn_if_nothing_is_recorded
from mlflow_ddpm.tracking.row_measurement import RowMeasurement
from mlflow_ddpm.tracking.run_metadata import describe_environment
from mlflow_ddpm.tracking.run_recorder import RunRecorder
from mlflow_ddpm.tracking.scalars import Scalar, extra_values, join_collectives
from mlflow_ddpm.tracking.step_windows import StepWindows
from mlflow_ddpm.tracking.timing import unix_ms

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from mlflow_ddpm.analysis.findings.rules import Finding

__all__ = ["EpochMetrics", "MetricsTracker", "compute_grad_norm"]


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
        device: of the training, for memory and timing; default: the CUDA device in use, if any.
        resume: add epochs to a run that had finished.
        every_n_steps: the loop counts steps, not epochs: :meth:`log_step` records one row per this many steps.
        reduce_over_ranks: let losses be means, and samples sums, over all ranks. ``end_epoch`` then is a collective
            that every rank must enter. By default rank 0's own batches count, and its samples times the ranks.
        system_metrics: fill the run's system tab in MLflow; default: ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING``.
        live_every_sec: seconds between points ``live/loss`` and the like in MLflow, while an epoch runs; 0: none.
        clock: seconds from any origin, never going back.
        now_ms: Unix time in milliseconds.

    Raises:
        UsageError: ``output_dir`` is a file, cannot be made, holds another run than the one asked for, or is being
            written by another tracker, of this process or another; or ``reduce_over_ranks`` knows no number of ranks.
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
        every_n_steps: int | None = None,
        reduce_over_ranks: bool = False,
        system_metrics: bool | None = None,
        live_every_sec: float = 30.0,
        clock: Callable[[], float] = time.perf_counter,
        now_ms: Callable[[], int] = unix_ms,
    ) -> None:
        self.output_dir = Path(output_dir).absolute()
        self.rank = ranks.rank()
        world_size, windows = ranks.world_size(), StepWindows.create(every_n_steps)
        self._peers = RankSync(self.output_dir, reduces=reduce_over_ranks)
        meter = EpochMeter(device, clock, world_size, self._peers)
        self._rows = RowMeasurement(meter, windows, self.rank, LiveMeter(live_every_sec, world_size))
        self._recorder: Recorder = NullRecorder()
        if self.rank == 0:
            recorder = self._recorder = RunRecorder(
                self.output_dir,
                RunTarget(absolute_uri(tracking_uri) if tracking_uri else "", run_id, run_name, experiment_name),
                config=config,
                tags=tags or {},
                environment=describe_environment(device),
                resume=resume,
                every_n_steps=windows.every if windows else None,
                now_ms=now_ms,
                system_metrics=system_metrics,
            )
            self._rows.record_to(recorder)
        else:
            self._rows.watch_exit()
            warn_if_nothing_is_recorded(is_group_due=True)

    @property
    def has_all_rows(self) -> bool:
        """Whether MLflow has every row, whatever files still wait or were set aside."""
        return self._recorder.has_all_rows

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
        """The first epoch (or step) without a row: where to begin. The same number on every rank.

        Raises:
            UsageError: on a rank other than 0 without a ``torch.distributed`` group; PeerLostError if a rank failed.
        """
        if self.rank == 0:
            self._peers.publish_next_epoch(self._recorder.next_epoch)
        return self._recorder.next_epoch if self.rank == 0 else self._peers.next_epoch()

    def watch(self, model: torch.nn.Module, ema_model: object) -> None:
        """Measure the distance between a model and its EMA in every row, unless ``end_epoch`` names another pair.

        Args:
            model: the live model, plain or wrapped.
            ema_model: its EMA: a module, a mapping or list of tensors, their ``state_dict()``, or an object that holds
                one: ``AveragedModel``, diffusers' ``EMAModel``, ``ema_pytorch.EMA``, torch_ema's, timm's.

        Raises:
            UsageError: they do not fit. Later on that is one warning.
        """
        self._rows.ema.watch(model, ema_model)

    def start_epoch(self, epoch: int, *, partial: bool = False) -> None:
        """Begin an epoch: the clock starts, and CUDA's peak memory anew.

        Args:
            epoch: its number, which is the MLflow step.
            partial: this continues an epoch in the middle, after a resume; its row is marked so.

        Raises:
            UsageError: ``epoch`` is not a whole number >= 0, the last epoch has not ended, or the loop counts steps.
        """
        self._rows.open_epoch(epoch, partial=partial)

    def log_batch(
        self, loss: Scalar, lr: Scalar | None = None, grad_norm: Scalar | None = None, batch_size: int | None = None
    ) -> None:
        """Note one batch, in microseconds; tensors stay on their device, unread, until the epoch ends.

        Args:
            loss: the batch's loss, a number or a 0-d tensor on any device. Do not change it in place afterwards, and
                pass a clone of what a replayed CUDA graph writes anew each time.
            lr: the learning rate of this step; of a tensor, its value now.
            grad_norm: the global L2 norm of the gradients before clipping: what ``clip_grad_norm_`` returns (None from
                DeepSpeed is fine, as is a DTensor from FSDP2 if every rank logs it), or :func:`compute_grad_norm`; as
                with ``loss``, not to be changed afterwards.
            batch_size: samples in this rank's batch; samples_per_sec is recorded only if every batch passes it.

        Raises:
            UsageError: no epoch is open, or a value is no single number.
        """
        batches = self._rows.meter.batches
        if batches is None or self._rows.windows:
            self._rows.refuse("log_batch")
            join_collectives(loss, grad_norm)
            return
        batches.add(loss, lr, grad_norm, batch_size)
        if time.monotonic() >= self._rows.live.due:
            self._rows.write_live()

    def log_step(
        self,
        step: int,
        loss: Scalar,
        lr: Scalar | None = None,
        grad_norm: Scalar | None = None,
        batch_size: int | None = None,
        **extra: Scalar | None,
    ) -> None:
        """Note one step of a loop that counts steps; a row is written by itself after each ``every_n_steps`` of them.

        Its number, and MLflow's step, is the number of steps done. The first row's clock starts at the first call.
        ``step``, the index of the step just done, counts from 0 over the whole run and must rise. ``extra`` are further
        scalars, recorded as their means over the window's finite values. The others are :meth:`log_batch`'s.

        Raises:
            UsageError: the loop counts epochs, the step does not rise, or a value or an extra's name cannot be taken.
        """
        if step is None:  # which an integration's batch without a step has
            raise UsageError("step must be a whole number >= 0, got None")
        self._rows.add_step(step, {"loss": loss, "lr": lr, "grad_norm": grad_norm, "batch_size": batch_size}, extra)

    def paused(self) -> AbstractContextManager[None]:
        """Keep what happens inside (sampling, evaluation) out of the epoch's time. Waits for the device twice."""
        return self._rows.meter.timer.paused()

    def end_epoch(
        self,
        model: torch.nn.Module | None = None,
        ema_model: object = None,
        extra: Mapping[str, Scalar | None] | None = None,
        *,
        partial: bool = False,
    ) -> EpochMetrics | None:
        """End the epoch and return its row, durable on disk now and soon in MLflow; None on ranks other than 0.

        Args:
            model: the live model; with ``ema_model``, their distance is measured.
            ema_model: its EMA, as :meth:`watch` takes it; default: what is watched. An unusable one is a warning.
            extra: further scalars of this epoch, recorded as the others are. None means not measured.
            partial: the epoch ends before its last batch; its row is marked so.

        Raises:
            UsageError: no epoch is open, or an extra's name or a value cannot be taken. The epoch stays open.
        """
        rows = self._rows
        if self.rank and rows.number >= 0:
            self._peers.passed(rows.number)
        if not rows.is_epoch_open:
            rows.refuse("end_epoch")
            join_collectives(*(extra or {}).values())
            return None
        values = extra_values(rows.checked_extras(extra)) if extra else {}
        if ema_model is not None and model is None:
            raise UsageError("end_epoch got ema_model without model; pass both, their distance is measured")
        return rows.write_row(rows.number, values, partial=partial, model=model, ema_model=ema_model)

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
        try:
            path = Path(path)
        except TypeError as error:
            raise UsageError(f"log_artifact takes the path of a file, got {short_repr(path)}") from error
        self._recorder.write_artifact(path)

    def on_finding(self, callback: Callable[[Finding], object]) -> None:
        """Have ``callback(finding)`` called for each new finding of severity error or warning, once for each rule.

        It runs on a thread of the tracker's soon after the row was written, so it sets what the loop looks at, such as
        a ``threading.Event``. What it raises is a warning in the log.
        """
        self._recorder.on_finding(callback)

    def flush(self, timeout: float = 30.0) -> bool:
        """Bring JSON and MLflow up to this moment; return whether MLflow has everything, within ``timeout`` seconds."""
        return self._recorder.flush(timeout)

    def close(self, status: str | None = None, error: BaseException | None = None, *, timeout: float = 30.0) -> bool:
        """Flush everything and end the run, if the tracker started it; return whether MLflow has everything.

        The last, short window of steps is kept; an epoch still open is dropped, with a warning.

        Args:
            status: FINISHED, FAILED, or KILLED, which is FAILED if another rank failed; default: from ``error``.
            error: what ended the training, for the tags; default: the exception under way, as in a ``finally`` block,
                or the signal for which the loop was left.
            timeout: seconds to wait for MLflow at most; what is not delivered by then stays in ``output_dir``.
        """
        if status not in (None, "FINISHED", "FAILED", "KILLED"):
            raise UsageError(f"status must be FINISHED, FAILED or KILLED, got {status!r}")
        return self._rows.end_as(status, error, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close(error=error)
