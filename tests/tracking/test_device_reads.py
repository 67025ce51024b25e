"""No device is read between ``start_epoch`` and the entry of ``end_epoch``, in the real training loop as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pipeline import STAND_IN
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mlflow_ddpm import EpochMetrics, MetricsTracker, compute_grad_norm
from mlflow_ddpm.ddpm.config.config import Config, from_options
from mlflow_ddpm.ddpm.train import TrainResult, prepare, train_with
from mlflow_ddpm.ddpm.training import diagnostics
from mlflow_ddpm.ddpm.training.distributed import Processes

torch.set_num_threads(1)

_METHODS = {"item", "tolist", "cpu", "numpy", "nonzero", "is_nonzero", "equal", "allclose", "__contains__"}
_METHODS |= {f"__{name}__" for name in ("float", "bool", "int", "index", "complex", "array", "format", "repr")}
_KERNELS = {"aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::equal"}


class NoReadsInPython(TorchFunctionMode):
    """Raises where Python asks for a tensor's value, also where the CPU would give it without a kernel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse reads, let everything else pass."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        # Torch's own functions move to the device they are on; on a CPU that looks the same, but for the string.
        to_host = name == "to" and any(isinstance(a, str) for a in (*args[1:], kwargs.get("device")))
        if name in _METHODS or to_host:
            message = f"the device was read: {name}"
            raise AssertionError(message)
        return func(*args, **kwargs)


class NoReadsInKernels(TorchDispatchMode):
    """Raises where torch itself, below Python, brings a value to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse reads, let everything else pass."""
        if func.name().split(".")[0] in _KERNELS:
            message = f"the device was read: {func}"
            raise AssertionError(message)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_reads() -> Iterator[None]:
    """Guard on a CPU what would wait on a GPU."""
    with NoReadsInPython(), NoReadsInKernels():  # type: ignore[no-untyped-call]
        yield


@contextmanager
def no_cuda_sync() -> Iterator[None]:
    """Let torch itself raise where the host would wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


Guard = Callable[[], AbstractContextManager[None]]


class Guarded(STAND_IN):  # type: ignore[misc]
    """A real tracker; between ``start_epoch`` and the entry of ``end_epoch`` the guard stands, but for pauses."""

    def __init__(self, tracker: MetricsTracker, guard: Guard, standing: ExitStack) -> None:
        self._tracker, self._guard, self._standing = tracker, guard, standing
        self.log_batch, self.log_image = tracker.log_batch, tracker.log_image

    @property
    def run_id(self) -> str | None:
        """The run."""
        return self._tracker.run_id

    def start_epoch(self, epoch: int) -> None:
        """Start the epoch, then set up the guard."""
        self._tracker.start_epoch(epoch)
        self._standing.enter_context(self._guard())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the guard away for a while: a pause waits for the device by itself."""
        self._standing.close()
        with self._tracker.paused():
            yield
        self._standing.enter_context(self._guard())

    def end_epoch(
        self,
        model: nn.Module | None = None,
        ema_model: nn.Module | None = None,
        extra: Mapping[str, float | None] | None = None,
    ) -> EpochMetrics | None:
        """Take the guard away, then end the epoch."""
        self._standing.close()
        return self._tracker.end_epoch(model=model, ema_model=ema_model, extra=extra)


READS: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda t: t.item(),
    "float": float,
    "int": int,
    "bool": bool,
    "if": lambda t: 1 if t > 0 else 0,
    "tolist": lambda t: t.tolist(),
    "cpu": lambda t: t.cpu(),
    "to cpu": lambda t: t.to("cpu"),
    "numpy": lambda t: t.numpy(),
    "format": lambda t: f"{t:.3f}",
    "print": repr,
    "nonzero": lambda t: t.nonzero(),
}


@pytest.mark.parametrize("read", READS)
def test_the_guard_catches_a_read(read: str) -> None:
    """A guard that lets everything pass would prove nothing."""
    value = torch.tensor(1.0)

    with pytest.raises(AssertionError, match="the device was read"), no_reads():
        READS[read](value)


def tiny(device: str) -> Config:
    """Settings of a run of seconds, without pictures."""
    told = {"base_channels": 8, "channel_mults": (1, 2), "image_size": 8, "batch_size": 400, "epochs": 2}
    return from_options(told | {"sample_every": 0, "eval_per_class": 0, "device": device}).resolve()


def _train(device: str, guard: Guard, uri: str) -> TrainResult:
    config, directory = tiny(device), Path("out")
    training = prepare(config, Processes(0, 1, torch.device(device)), directory)
    with MetricsTracker(directory, tracking_uri=uri, device=device) as tracker, ExitStack() as standing:
        return train_with(Guarded(tracker, guard, standing), training, directory)


def test_the_real_training_loop_reads_nothing_during_an_epoch(sqlite_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainer, loop and tracker together, folding every second batch; the row is measured all the same."""
    monkeypatch.setattr(diagnostics, "_FOLD_AT", 2)
    row = _train("cpu", no_reads, sqlite_uri).last_row

    assert row is not None
    assert (row.epoch, row.nonfinite_batches) == (1, 0)
    assert None not in (row.loss_mean, row.grad_norm, row.ema_delta_norm, row.samples_per_sec)
    assert {"loss_t/q1", "loss_t/q4", "grad_part/middle", "update/weight_ratio", "time/data_sec"} <= set(row.extra)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_real_training_loop_never_waits_for_the_gpu_during_an_epoch(
    sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own sync debug mode says so, folding every second batch."""
    monkeypatch.setattr(diagnostics, "_FOLD_AT", 2)
    row = _train("cuda", no_cuda_sync, sqlite_uri).last_row

    assert row is not None
    assert None not in (row.loss_mean, row.grad_norm, row.ema_delta_norm, row.gpu_peak_mb)


def test_a_loop_of_ones_own_with_compute_grad_norm_reads_nothing(sqlite_uri: str) -> None:
    """Losses with their graph, norms of all gradients, and enough batches for the tracker to fold them."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
    x = torch.randn(16, 4)
    with MetricsTracker("out", tracking_uri=sqlite_uri) as real, ExitStack() as standing:
        tracker = Guarded(real, no_reads, standing)
        tracker.start_epoch(0)
        for _ in range(1100):
            model.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            tracker.log_batch(loss, lr=torch.tensor(0.1), grad_norm=compute_grad_norm(model), batch_size=16)
        row = tracker.end_epoch()

    assert row is not None
    assert row.loss_mean == pytest.approx(float(loss.detach()))
    assert row.lr == pytest.approx(0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_tracker_never_waits_for_the_gpu_in_a_loop_of_ones_own(sqlite_uri: str) -> None:
    """Nor does the gradient norm."""
    model = nn.Linear(4, 1, device="cuda")
    x = torch.randn(16, 4, device="cuda")
    with MetricsTracker("out", tracking_uri=sqlite_uri) as real, ExitStack() as standing:
        tracker = Guarded(real, no_cuda_sync, standing)
        tracker.start_epoch(0)
        for _ in range(1100):
            model.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            tracker.log_batch(loss, lr=0.1, grad_norm=compute_grad_norm(model), batch_size=16)
        row = tracker.end_epoch()

    assert row is not None
    assert row.loss_mean == pytest.approx(float(loss))
