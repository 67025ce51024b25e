"""The distance between a model and its EMA, in every form that an EMA comes in."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.common import ROOT, slow
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.tracking.ema_distance import EmaProbe, ema_distance
from mlflow_ddpm.tracking.probes import compute_grad_norm


def _shadow_of(model: nn.Module, shift: float) -> nn.Module:
    shadow = copy.deepcopy(model)
    with torch.no_grad():
        for p in shadow.parameters():
            p.add_(shift)
    return shadow


class Wrapped(nn.Module):
    """Holds a model under ``module``, as DistributedDataParallel does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda m: m,
    "wrapped as by DDP": Wrapped,
    "compiled": torch.compile,
    "AveragedModel": AveragedModel,
    "state dict": lambda m: m.state_dict(),
    "mapping in another precision": lambda m: {k: v.double() for k, v in m.named_parameters()},
}


@pytest.mark.parametrize("kind", [slow(kind) if kind == "compiled" else kind for kind in KINDS])
def test_the_ema_may_come_in_any_form(kind: str) -> None:
    """The distance is the same."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    count = sum(p.numel() for p in model.parameters())

    distance = ema_distance(Wrapped(model), KINDS[kind](_shadow_of(model, 0.5)))

    assert distance == pytest.approx(0.5 * math.sqrt(count), rel=1e-6)


def test_a_weight_that_two_layers_share_counts_once() -> None:
    """As in the optimiser, which sees it once."""
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(4, 3), "head": torch.nn.Linear(3, 4, bias=False)})
    model["head"].weight = model["embed"].weight

    assert ema_distance(model, _shadow_of(model, 0.5)) == pytest.approx(0.5 * math.sqrt(12), rel=1e-6)


def test_the_ema_distance_of_large_tensors_matches_float64() -> None:
    """A float32 sum over millions of squares drifts; chunks keep it to a part in a million."""
    torch.manual_seed(0)
    model, shadow = nn.Linear(1500, 1500), nn.Linear(1500, 1500)
    pairs = zip(model.parameters(), shadow.parameters(), strict=True)
    exact = math.sqrt(sum(float((p.detach().double() - q.detach().double()).square().sum()) for p, q in pairs))

    assert ema_distance(model, shadow) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [64, 361, 2000])
@pytest.mark.parametrize("away", [1e-4, 0.3, 1e30])
def test_equal_differences_are_summed_right(away: float, size: int, dtype: torch.dtype) -> None:
    """Adam's first step moves each weight as far; squares beyond float32 are no infinite distance."""
    model = nn.Linear(size, size, bias=False, dtype=dtype)
    nn.init.zeros_(model.weight)
    average = {"weight": torch.full((size, size), away)}

    assert ema_distance(model, average) == pytest.approx(float(average["weight"][0, 0]) * size, rel=1e-5)


class _Widened(TorchDispatchMode):
    """Notes how many elements each float64 result has."""

    sizes: list[int]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            self.sizes.append(result.numel())
        return result


@pytest.mark.parametrize(
    ("away", "largest"), [([2e30, 1.0, 0.0], 500), ([math.inf, 1.0, 1.0], 500), ([3.0, math.inf, 2e30], 600)]
)
def test_only_parts_whose_squares_overflow_are_computed_again(away: list[float], largest: int) -> None:
    """An infinite weight costs its own part at each row, not the whole model once more."""
    sizes = (500, 600, 700)
    model = nn.ParameterList([torch.zeros(size) for size in sizes])
    average = [torch.full((size,), value) for size, value in zip(sizes, away, strict=True)]
    exact = math.sqrt(sum(size * value**2 for size, value in zip(sizes, away, strict=True)))
    with _Widened() as widened:  # type: ignore[no-untyped-call]
        widened.sizes = []
        distance = ema_distance(model, average)

    assert distance == pytest.approx(exact, rel=1e-6)
    assert max(widened.sizes) == largest


@pytest.mark.parametrize("entry", [5, None, torch.ones(2, dtype=torch.complex64)])
def test_what_an_ema_mapping_holds_beside_the_parameters_is_left_alone(entry: Any) -> None:
    """A whole state dict is natural to pass: it has buffers, counters and whatever else."""
    model = nn.Linear(8, 8)

    shadow = {name: p.detach() + 0.5 for name, p in model.named_parameters()} | {"another": entry}

    assert ema_distance(model, shadow) == pytest.approx(0.5 * math.sqrt(72), rel=1e-6)


def test_complex_parameters_have_a_distance() -> None:
    """That of their absolute values."""
    model = nn.ParameterList([torch.ones(3, dtype=torch.complex64)])

    assert ema_distance(model, {"0": torch.full((3,), 1 + 2j)}) == pytest.approx(math.sqrt(12), rel=1e-6)


def test_float8_parameters_are_compared_in_float32() -> None:
    """Torch promotes no float8 by itself."""
    live = nn.ParameterList([nn.Parameter(torch.ones(3).to(torch.float8_e4m3fn), requires_grad=False)])

    assert ema_distance(live, [torch.full((3,), 2.0)]) == pytest.approx(math.sqrt(3), rel=1e-6)


def test_an_iterator_that_is_watched_is_read_each_time() -> None:
    """``parameters()`` would be empty at the second epoch."""
    model, probe = nn.Linear(2, 1), EmaProbe()
    probe.watch(model, _shadow_of(model, 0.5).parameters())

    assert [probe.measure(), probe.measure()] == pytest.approx([0.5 * math.sqrt(3)] * 2, rel=1e-6)


class _NotReady:
    """An EMA object that cannot be asked yet."""

    @property
    def ema_model(self) -> nn.Module:
        raise RuntimeError("not yet")


@pytest.mark.parametrize(
    ("model", "ema_model", "message"),
    [
        (nn.Linear(2, 1), nn.Linear(2, 1, device="meta"), "ema_model's weight must be a dense tensor with values"),
        (nn.Linear(2, 1, device="meta"), nn.Linear(2, 1), "model's weight must be a dense tensor with values"),
        (nn.Linear(2, 1), [torch.ones(1, 2).to_sparse(), torch.ones(1)], "of torch.sparse_coo"),
        (nn.LazyLinear(1), nn.LazyLinear(1), "the pair cannot be watched: RuntimeError"),
        (None, nn.Linear(2, 1), "model must be a torch module, got NoneType"),
        (nn.Linear(2, 1), _NotReady(), "the pair cannot be watched: RuntimeError: not yet"),
    ],
)
def test_what_cannot_be_measured_is_refused_when_it_is_watched(model: Any, ema_model: Any, message: str) -> None:
    """Not after the first epoch."""
    with pytest.raises(UsageError, match=message):
        EmaProbe().watch(model, ema_model)


def test_memory_formats_may_differ() -> None:
    """A channels_last model and its contiguous EMA hold the same numbers in another order."""
    model = nn.Conv2d(8, 8, 3)
    shadow = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    assert ema_distance(model, shadow) == 0.0


def test_an_ema_of_another_model_is_refused_with_the_names_that_lack() -> None:
    """A distance to half a model would be a lie."""
    with pytest.raises(UsageError, match=r"2 of 4 are missing: 1\.weight, 1\.bias"):
        ema_distance(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UsageError, match=r"shape \(2, 2\), got \(3, 3\)"):
        ema_distance(nn.Linear(2, 2), nn.Linear(3, 3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradients_may_lie_on_several_devices() -> None:
    """A model that is split over GPU and CPU has one norm all the same, and one distance to its EMA."""
    model = nn.Sequential(nn.Linear(4, 5, device="cuda"), nn.Linear(5, 6))
    for p in model.parameters():
        p.grad = torch.randn_like(p)

    shadow = _shadow_of(model, 0.5).cpu()
    assert float(compute_grad_norm(model)) == pytest.approx(
        math.hypot(*(float(p.grad.norm()) for p in model.parameters() if p.grad is not None)), rel=1e-6
    )
    assert ema_distance(model, shadow) == pytest.approx(0.5 * math.sqrt(61), rel=1e-6)


@pytest.mark.parametrize("side", [70, 200, 530])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_parameters_larger_than_a_part_are_compared_whole(side: int, memory_format: torch.memory_format) -> None:
    """Parts, rows and what is left over of both, in each memory format: no element is missed or counted twice."""
    model = nn.Conv2d(side, side, 3, bias=False).to(memory_format=memory_format)  # type: ignore[call-overload]
    shadow = nn.Conv2d(side, side, 3, bias=False)
    exact = float((model.weight.detach().double() - shadow.weight.detach().double()).norm())

    assert ema_distance(model, shadow) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("size", [10, 400])
def test_a_bf16_model_and_its_float32_average_are_compared_in_float32(size: int) -> None:
    """In bf16 the average would be rounded by more than it is away."""
    model = nn.Linear(size, size, bias=False).bfloat16()
    average = {"weight": model.weight.detach().float() + 1e-5}

    assert ema_distance(model, average) == pytest.approx(1e-5 * size, rel=1e-2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a process's peak memory")
def test_the_ema_distance_takes_no_second_copy_of_the_model() -> None:
    """Resident memory rises by less than the largest parameter, in each of some processes: heaps differ by chance."""
    command = [sys.executable, str(ROOT / "tests" / "bench" / "norms.py"), "208"]  # channels: 29 M parameters
    for _ in range(2):
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
        peak, largest = map(float, told.split())
        assert largest > 10  # MiB
        assert peak < largest
