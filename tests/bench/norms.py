"""``compute_grad_norm`` and the EMA distance on a U-Net of 30 M parameters: time, memory, error; on a GPU as well."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from stopwatches import Effort, compare, memory_mib, reset_memory_peak
from table import Row, at_most, not_measured, seconds

from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.tracking.ema_distance import ema_distance
from mlflow_ddpm.tracking.probes import compute_grad_norm

__all__ = ["measure", "measure_on"]

_TO_TOTAL_NORM, _TO_NAIVE, _LARGEST, _ERROR = 1.05, 1.0, 3.0, 1e-6
_MIB = 2**20


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of points 4 and 5."""
    yield from measure_on(effort, "cpu")
    if torch.cuda.is_available():
        yield from measure_on(effort, "cuda")
    else:
        yield not_measured(4, "`compute_grad_norm` on a GPU beside one `.item()` a tensor", "no CUDA device here")
        yield not_measured(5, "EMA distance on a GPU beside one `.item()` a tensor", "no CUDA device here")


def measure_on(effort: Effort, device: str) -> Iterator[Row]:
    """Yield the rows of one device."""
    torch.set_num_threads(1)
    for base in (32, effort.of(208, 16)):
        model, shadow = _models(base, device)
        size = f"{sum(p.numel() for p in model.parameters()) / 1e6:.2g} M parameters, {device}"
        yield from _gradients(effort, model, size)
        yield from _distance(effort, model, shadow, size)
    yield _error(model, shadow, size)
    if device == "cpu":
        yield _memory(base, size)


def _models(base: int, device: str) -> tuple[UNet, UNet]:
    """Return a U-Net, channels last as in training, with gradients, and its average, a little away from it."""
    torch.manual_seed(0)
    model = UNet(
        classes=10, image_size=16, base_channels=base, channel_mults=(1, 2), blocks=1, patch_size=2, attention_size=8
    ).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    shadow = copy.deepcopy(model)
    with torch.no_grad():
        for p, q in zip(model.parameters(), shadow.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.add_(1e-3 * torch.randn_like(q))
    return model, shadow


def _clock() -> float:
    """Return the time when the device's queue is empty; on a CPU the thread's own, which neighbours leave alone."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.thread_time()


def _compare(effort: Effort, subject: Callable[[], object], baseline: Callable[[], object]) -> Any:
    return compare(subject, baseline, repeats=effort.of(41, 2), calls=effort.of(4, 1), clock=_clock)


def _gradients(effort: Effort, model: UNet, size: str) -> Iterator[Row]:
    def total_norm() -> object:
        return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])

    def naive() -> float:
        return math.sqrt(sum(float(p.grad.norm().item()) ** 2 for p in model.parameters() if p.grad is not None))

    fused = _compare(effort, lambda: compute_grad_norm(model), total_norm)
    what = f"`compute_grad_norm`, {size}, beside"
    limit = at_most(_TO_TOTAL_NORM, fused.ratio)
    yield Row(4, f"{what} `get_total_norm`", seconds(fused.subject), seconds(fused.baseline), fused.ratio, limit)
    loop = _compare(effort, lambda: compute_grad_norm(model), naive)
    yield Row(4, f"{what} one `.item()` a tensor", seconds(loop.subject), seconds(loop.baseline), loop.ratio, None)


def _distance(effort: Effort, model: UNet, shadow: UNet, size: str) -> Iterator[Row]:
    def naive() -> float:
        with torch.no_grad():
            pairs = zip(model.parameters(), shadow.parameters(), strict=True)
            return math.sqrt(sum(float((p - q).norm().item()) ** 2 for p, q in pairs))

    pair = _compare(effort, lambda: ema_distance(model, shadow), naive)
    what = f"EMA distance, {size}, beside `sum((p - q).norm().item()**2)`"
    yield Row(5, what, seconds(pair.subject), seconds(pair.baseline), pair.ratio, at_most(_TO_NAIVE, pair.ratio))


def _error(model: UNet, shadow: UNet, size: str) -> Row:
    pairs = zip(model.parameters(), shadow.parameters(), strict=True)
    exact = math.sqrt(sum(float((p.detach().double() - q.detach().double()).square().sum()) for p, q in pairs))
    error = abs(ema_distance(model, shadow) / exact - 1)
    limit = at_most(_ERROR, error, "")
    return Row(5, f"EMA distance, {size}: relative error against float64", f"{error:.1e}", "", None, limit)


def _memory(base: int, size: str) -> Row:
    """Measure in a process of its own, whose memory holds nothing else."""
    command = [sys.executable, __file__, str(base)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    peak, largest = map(float, told.split())
    what = f"EMA distance, {size}: extra memory at its peak, beside the largest parameter"
    ratio = peak / largest
    return Row(5, what, f"{peak:.1f} MiB", f"{largest:.1f} MiB", ratio, at_most(_LARGEST, ratio))


def _peak(base: int) -> tuple[float, float]:
    model, shadow = _models(base, "cpu")
    ema_distance(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))  # imports
    reset_memory_peak()
    before = memory_mib()
    ema_distance(model, shadow)
    return memory_mib("VmHWM") - before, max(p.numel() * p.itemsize for p in model.parameters()) / _MIB


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(*_peak(int(sys.argv[1])))
