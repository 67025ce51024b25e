"""Training steps of our U-Net beside diffusers' ``UNet2DModel`` of equal size, and what each lever of its speed gives.

A step is forward pass, mean squared error, backward pass and AdamW, on one thread and its own clock on a CPU. Both
networks have the same levels, blocks, norm groups, head size and adaptive norms, and parameters within 2 %.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from stopwatches import Effort, compare
from table import Limit, Row, at_least, not_measured, seconds
from torch import Tensor, nn
from torch.nn import functional as nnf

from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.training.trainer import update_average

__all__ = ["measure", "measure_on_gpu"]

_POINT = "6.4"  # point 4 of issue 6
_SIZE, _CLASSES = 32, 10
_ON_CPU, _PATCHED, _ON_GPU = 1.2, 2.0, 1.5
_EQUAL = 0.02  # by which two numbers of parameters may differ
_NHWC = torch.channels_last
# Dense bf16 in TFLOP/s, from the makers' data sheets; by a part of the card's name.
_PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}

Step = Callable[[], object]


class _Batch(NamedTuple):
    """What both networks are trained on."""

    x_t: Tensor  # (B, 1, S, S)
    timestep: Tensor  # (B,)
    labels: Tensor  # (B,)
    target: Tensor  # (B, 1, S, S)


def measure(effort: Effort) -> Iterator[Row]:
    """Yield the rows of point 4 of issue 6."""
    torch.set_num_threads(1)
    for batch in (effort.of(64, 2), effort.of(128, 3)):
        yield from _beside_diffusers(effort, base=effort.of(32, 16), batch=batch)
    yield from _levers(effort, base=effort.of(32, 16), batch=effort.of(32, 2))
    yield from measure_on_gpu(effort)


def _batch(size: int, device: str = "cpu", layout: torch.memory_format = _NHWC) -> _Batch:
    generator = torch.Generator().manual_seed(0)
    x_t, target = (torch.randn(size, 1, _SIZE, _SIZE, generator=generator) for _ in range(2))
    timestep = torch.randint(1000, (size,), generator=generator)
    labels = torch.randint(_CLASSES, (size,), generator=generator)
    images = [x.to(device, memory_format=layout) for x in (x_t, target)]
    return _Batch(images[0], timestep.to(device), labels.to(device), images[1])


def _ours(base: int, patch_size: int = 1) -> UNet:
    torch.manual_seed(0)
    return UNet(classes=_CLASSES, image_size=_SIZE, base_channels=base, channel_mults=(1, 2, 2), patch_size=patch_size)


def _theirs(base: int) -> nn.Module:
    """Return diffusers' network of our levels: attention at 8x8 and in the middle, the embedding as scale and shift."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers: Any = importlib.import_module("diffusers")
        torch.manual_seed(0)
        network: nn.Module = diffusers.UNet2DModel(
            sample_size=_SIZE,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(base, 2 * base, 2 * base),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            attention_head_dim=32,
            num_class_embeds=_CLASSES + 1,
            resnet_time_scale_shift="scale_shift",
        )
    return network


class _Named(nn.Module):
    """Their network behind our call."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, timestep: Tensor, labels: Tensor) -> Any:
        return self.network(x_t, timestep, class_labels=labels, return_dict=False)[0]


def _step(
    model: nn.Module,
    batch: _Batch,
    *,
    layout: torch.memory_format = _NHWC,
    bf16: bool = False,
    is_compiled: bool = False,
) -> Step:
    """Return a training step of a model, which goes where the batch is."""
    device = batch.x_t.device
    model = model.to(device, memory_format=layout).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if is_compiled else model

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = forward(batch.x_t, batch.timestep, batch.labels)
        nnf.mse_loss(predicted.float(), batch.target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _cuda_clock() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def _images(batch: _Batch) -> str:
    return f"{_SIZE}x{_SIZE}, batch {len(batch.labels)}"


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _beside_diffusers(effort: Effort, base: int, batch: int) -> Iterator[Row]:
    what = "steps per second on a CPU beside diffusers' `UNet2DModel`"
    if importlib.util.find_spec("diffusers") is None:
        yield not_measured(_POINT, what, "diffusers is not installed (pip install -e '.[bench]')")
        return
    theirs, given = _Named(_theirs(base)), _batch(batch)
    for patch_size, least, stem in ((1, _ON_CPU, "no patches"), (2, _PATCHED, "2x2 patches in our stem")):
        ours = _ours(base, patch_size)
        apart = _parameters(ours) / _parameters(theirs) - 1
        size = f"{_parameters(ours) / 1e6:.2f} and {_parameters(theirs) / 1e6:.2f} M parameters, {_images(given)}"
        row = _rate(effort, f"{what}, {stem}, {size}", _step(ours, given), _step(theirs, given), least=least)
        unfair = Limit(f"{row.limit.text if row.limit else ''}, sizes within {_EQUAL:.0%}", kept=False)
        yield row if abs(apart) <= _EQUAL or effort.quick else row._replace(limit=unfair)


def _rate(
    effort: Effort, what: str, ours: Step, beside: Step, *, least: float | None = None, on_gpu: bool = False
) -> Row:
    """Return a row whose ratio is how many of our steps fit into one of the other's."""
    pair = compare(ours, beside, repeats=effort.of(7, 1), clock=_cuda_clock if on_gpu else time.thread_time)
    limit = None if least is None else at_least(least, 1 / pair.ratio)
    return Row(
        _POINT, what, f"{seconds(pair.subject)} a step", f"{seconds(pair.baseline)} a step", 1 / pair.ratio, limit
    )


def _levers(effort: Effort, base: int, batch: int) -> Iterator[Row]:
    """Yield what each choice gives over the plain one; told, not judged."""
    last, first = _batch(batch), _batch(batch, layout=torch.contiguous_format)
    size = f"{_parameters(_ours(base)) / 1e6:.2f} M parameters, {_images(last)}"
    plain = _step(_ours(base), first, layout=torch.contiguous_format)
    whole, patched = _step(_ours(base), last), _step(_ours(base, 2), last)
    halved = _step(_ours(base, 2), last, bf16=True)
    yield _rate(effort, f"lever: channels last, beside channels first, {size}", whole, plain)
    yield _rate(effort, f"lever: 2x2 patches, beside none, {size}", patched, whole)
    yield _rate(effort, f"no lever on this CPU: bf16 autocast, beside float32, 2x2 patches, {size}", halved, patched)
    yield _optimizer(effort, base)
    yield _average(effort, base)
    yield _loading(effort)


def _lever(effort: Effort, what: str, ours: Step, beside: Step) -> Row:
    pair = compare(ours, beside, repeats=effort.of(21, 1), calls=effort.of(5, 1), clock=time.thread_time)
    return Row(_POINT, what, seconds(pair.subject), seconds(pair.baseline), 1 / pair.ratio, None)


def _optimizer(effort: Effort, base: int) -> Row:
    def stepper(*, fused: bool) -> Step:
        model = _ours(base, 2)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        return torch.optim.AdamW(model.parameters(), fused=fused, foreach=False).step

    what = "lever: fused AdamW, beside a loop over the parameters"
    return _lever(effort, what, stepper(fused=True), stepper(fused=False))


def _average(effort: Effort, base: int) -> Row:
    model = _ours(base, 2)
    parameters: list[torch.Tensor] = list(model.parameters())
    averages = [p.detach().clone() for p in parameters]
    shadow = [p.clone() for p in model.parameters()]

    def in_one_call() -> None:
        update_average(averages, parameters, 10_000, 0.999)

    @torch.no_grad()
    def loop() -> None:
        for average, live in zip(shadow, model.parameters(), strict=True):
            average.mul_(0.999).add_(live, alpha=0.001)

    what = "lever: the weights' average in one call, beside mul_ and add_ in a loop"
    return _lever(effort, what, in_one_call, loop)


def _loading(effort: Effort) -> Row:
    """Batches by index from one tensor of bytes, beside a DataLoader of the same tensors in the same process."""
    from torch.utils.data import DataLoader, TensorDataset

    count, batch = effort.of(8_000, 64), effort.of(128, 8)
    images = torch.randint(256, (count, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(_CLASSES, (count,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch, shuffle=True)

    def indexed() -> None:
        for chosen in torch.randperm(count).split(batch):
            _ = images[chosen], labels[chosen]

    def loaded() -> None:
        for _ in loader:
            pass

    pair = compare(indexed, loaded, repeats=effort.of(7, 1), clock=time.thread_time)
    batches = -(-count // batch)
    what = f"lever: a batch of {batch} by index from memory, beside a DataLoader without workers"
    return Row(_POINT, what, seconds(pair.subject / batches), seconds(pair.baseline / batches), 1 / pair.ratio, None)


def measure_on_gpu(effort: Effort) -> Iterator[Row]:
    """Yield the GPU's rows: bf16, compiled, beside diffusers' network under the same."""
    beside, share = "steps per second on a GPU, bf16 and compiled, beside diffusers'", "share of the card's bf16 peak"
    if not torch.cuda.is_available():
        yield not_measured(_POINT, beside, "no CUDA device here")
        yield not_measured(_POINT, share, "no CUDA device here")
        return
    given = _batch(effort.of(512, 4), "cuda")
    base = effort.of(128, 16)
    fast, eager = (_step(_ours(base), given, bf16=True, is_compiled=wanted) for wanted in (True, False))
    plain = _step(_ours(base), given)
    if importlib.util.find_spec("diffusers") is None:
        yield not_measured(_POINT, beside, "diffusers is not installed (pip install -e '.[bench]')")
    else:
        theirs = _step(_Named(_theirs(base)), given, bf16=True, is_compiled=True)
        yield _rate(effort, f"{beside}, {_images(given)}", fast, theirs, least=_ON_GPU, on_gpu=True)
    yield _rate(effort, "lever on a GPU: torch.compile, beside eager, both bf16", fast, eager, on_gpu=True)
    yield _rate(effort, "lever on a GPU: bf16, beside float32, both eager", eager, plain, on_gpu=True)
    yield _share(effort, share, fast, plain)


def _share(effort: Effort, what: str, fast: Step, counted: Step) -> Row:
    """Return which part of the data sheet's dense bf16 rate the products of a step reach."""
    from torch.utils.flop_counter import FlopCounterMode

    name = torch.cuda.get_device_name()
    peak = next((value for part, value in _PEAKS.items() if part in name), None)
    if peak is None:
        return not_measured(_POINT, what, f"no data sheet of {name} here")
    with FlopCounterMode(display=False) as counter:
        counted()
    pair = compare(fast, fast, repeats=effort.of(11, 1), clock=_cuda_clock)
    rate = counter.get_total_flops() / pair.subject / 1e12
    return Row(_POINT, f"{what}, {name}", f"{rate:,.1f} TFLOP/s", f"{peak:,.0f} TFLOP/s", rate / peak, None)
