"""The gradient norm of every kind of model that users have, and the memory of its device."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from mlflow_ddpm.tracking.ema_distance import ema_distance
from mlflow_ddpm.tracking.probes import compute_grad_norm, read_cuda_memory

# Of gloo, for good: the destructor waits, with the interpreter's lock held, for threads that may want this lock.
_KEPT: list[Any] = []


def _model_with_gradients(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    return model


def _reference(model: nn.Module) -> float:
    squares = [p.grad.to_dense().double().square().sum() for p in model.parameters() if p.grad is not None]
    return math.sqrt(float(sum(squares)))


def test_the_gradient_norm_is_a_0d_tensor_and_equals_that_of_all_gradients_together() -> None:
    """It is the L2 norm of one long vector, and what clip_grad_norm_ would return."""
    model = _model_with_gradients()

    norm = compute_grad_norm(model)

    assert (norm.ndim, norm.requires_grad) == (0, False)
    assert float(norm) == pytest.approx(_reference(model), rel=1e-6)
    assert float(norm) == float(nn.utils.clip_grad_norm_(model.parameters(), 1.0))


def test_parameters_without_gradient_count_as_zero() -> None:
    """A frozen layer has none."""
    model = _model_with_gradients()
    model[0].weight.grad = None

    assert float(compute_grad_norm(model)) == pytest.approx(_reference(model), rel=1e-6)
    assert float(compute_grad_norm(nn.Linear(2, 2))) == 0.0


def test_sparse_gradients_count_by_their_values() -> None:
    """An index that occurs twice is summed first."""
    model = nn.Embedding(10, 4, sparse=True)
    model(torch.tensor([1, 1, 3])).sum().backward()

    assert float(compute_grad_norm(model)) == pytest.approx(math.sqrt(4 * 2**2 + 4 * 1**2), rel=1e-6)


def test_half_precision_gradients_are_summed_in_float32() -> None:
    """In fp16 the square of 300 overflows; in bf16 a sum of many small squares stands still."""
    model = nn.Linear(1000, 10, bias=False).half()
    model.weight.grad = torch.full_like(model.weight, 300.0)
    mixed = nn.ModuleList([model, nn.Linear(3, 3)])
    mixed[1].weight.grad = torch.ones(3, 3)

    assert float(compute_grad_norm(model)) == pytest.approx(300 * 100, rel=1e-6)
    assert float(compute_grad_norm(mixed)) == pytest.approx(math.hypot(300 * 100, 3), rel=1e-6)


def test_without_cuda_memory_is_not_measured() -> None:
    """None, not zero."""
    if torch.cuda.is_initialized():
        pytest.skip("this machine has CUDA in use")
    assert read_cuda_memory() == (None, None, None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_memory_is_in_mebibytes() -> None:
    """64 MiB in a tensor are 64, and the peak remembers them."""
    from mlflow_ddpm.tracking.probes import reset_cuda_peak

    torch.zeros(1, device="cuda")
    reset_cuda_peak()
    before = read_cuda_memory().gpu_allocated_mb or 0.0
    block = torch.zeros(2**24, device="cuda")
    during = read_cuda_memory()
    del block

    assert (during.gpu_allocated_mb or 0.0) - before == pytest.approx(64)
    assert (read_cuda_memory().gpu_peak_mb or 0.0) >= before + 64


def _mixed_gradients() -> nn.ModuleDict:
    """Sparse, bf16, float32, float64, frozen and empty parameters in one model."""
    model = nn.ModuleDict(
        {
            "sparse": nn.Embedding(10, 4, sparse=True),
            "narrow": nn.Linear(300, 40, dtype=torch.bfloat16),
            "single": nn.Linear(5, 5),
            "wide": nn.Linear(6, 6, dtype=torch.float64),
            "frozen": nn.Linear(7, 7).requires_grad_(requires_grad=False),
            "empty": nn.ParameterList([torch.empty(0, 3)]),
        }
    )
    model["sparse"](torch.tensor([1, 1, 3])).sum().backward()
    for name in ("narrow", "single", "wide", "empty"):
        for p in model[name].parameters():
            p.grad = torch.randn_like(p)
    return model


def test_gradients_of_all_kinds_together_are_one_vector() -> None:
    """One norm, on the device, in float32 at least."""
    model = _mixed_gradients()

    norm = compute_grad_norm(model)

    assert norm.ndim == 0
    assert norm.dtype.itemsize >= 4
    assert float(norm) == pytest.approx(_reference(model), rel=1e-5)


@pytest.mark.slow
def test_a_compiled_model_has_the_norm_of_the_model_inside() -> None:
    """The wrapper's parameters are the model's own."""
    model = _model_with_gradients()

    assert float(compute_grad_norm(torch.compile(model, backend="eager"))) == float(compute_grad_norm(model))  # type: ignore[arg-type]


def test_under_ddp_the_norm_is_that_of_the_averaged_gradients(tmp_path: Any) -> None:
    """A group of one process is enough to be wrapped."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        inner = nn.Linear(8, 3)
        model = nn.parallel.DistributedDataParallel(inner)
        _KEPT.append(model)
        model(torch.randn(4, 8)).square().sum().backward()

        assert float(compute_grad_norm(model)) == pytest.approx(_reference(inner), rel=1e-6)
        shadow = {name: p.detach() + 0.5 for name, p in inner.named_parameters()}
        assert ema_distance(model, shadow) == pytest.approx(0.5 * math.sqrt(27), rel=1e-6)
    finally:
        dist.destroy_process_group()


def test_amp_gradients_are_scaled_until_they_are_unscaled() -> None:
    """As its documentation says: unscale first."""
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model(torch.ones(4, 8)).square().sum()).backward()
    scaled = float(compute_grad_norm(model))
    scaler.unscale_(optimizer)

    assert float(compute_grad_norm(model)) == pytest.approx(_reference(model), rel=1e-6)
    assert scaled == pytest.approx(1024 * _reference(model), rel=1e-6)
