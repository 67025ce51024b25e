"""Precision and compilation of the training's forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mlflow_ddpm.ddpm.config.config import from_options
from mlflow_ddpm.ddpm.data.images import LabelledImages
from mlflow_ddpm.ddpm.data.loading import load_dataset
from mlflow_ddpm.ddpm.training.distributed import Processes
from mlflow_ddpm.ddpm.training.trainer import Trainer, build_model, update_average, uses_bf16

torch.set_num_threads(1)

TINY: dict[str, Any] = {"base_channels": 8, "channel_mults": (1, 2), "image_size": 16, "batch_size": 32, "lr": 1e-2}


ALONE = Processes(0, 1, torch.device("cpu"))


def digits() -> LabelledImages:
    """The training set."""
    return load_dataset(from_options(TINY).resolve().data).train


def two_steps(**chosen: Any) -> tuple[list[float], set[torch.dtype], Trainer]:
    """Train two batches; return their losses, what convolutions gave, and the trainer."""
    config = from_options(TINY | {"warmup_steps": 0} | chosen).resolve()
    trainer = Trainer(config, digits(), 10, ALONE)
    seen: set[torch.dtype] = set()
    trainer.model.head.register_forward_hook(lambda _module, _given, out: seen.add(out.dtype))
    batches = trainer.train_epoch(0)
    return [float(next(batches).loss) for _ in range(2)], seen, trainer


def test_bf16_computes_in_bf16_and_keeps_weights_gradients_and_loss_in_float32() -> None:
    """The losses are those of float32 to bfloat16's three digits."""
    plain, plain_dtypes, _ = two_steps(precision="fp32")
    halved, halved_dtypes, trainer = two_steps(precision="bf16")

    assert (plain_dtypes, halved_dtypes) == ({torch.float32}, {torch.bfloat16})
    assert halved == pytest.approx(plain, rel=1e-2)
    assert halved != plain
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert {p.dtype for p in trainer.ema_model.parameters()} == {torch.float32}


def test_auto_is_float32_on_a_cpu() -> None:
    """To the last bit what fp32 gives: CPUs without units for it would take longer."""
    assert two_steps(precision="auto")[0] == two_steps(precision="fp32")[0]
    assert not uses_bf16("auto", torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_auto_is_bf16_on_a_gpu_that_has_units_for_it() -> None:
    """From compute capability 8.0 on."""
    assert uses_bf16("auto", torch.device("cuda")) == (torch.cuda.get_device_capability() >= (8, 0))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what torch.compile's own code deprecates is not ours to mend
def test_the_unet_is_one_graph_to_torch_compile() -> None:
    """No part of it falls back to Python, and its values are the same; making kernels of it would take two minutes."""
    config = from_options(TINY).resolve()
    model = build_model(config, 10)
    torch.nn.init.normal_(model.head.weight)
    given = (torch.randn(3, 1, 16, 16), torch.tensor([0, 5, 999]), torch.tensor([0, 9, 10]))
    graph = torch.compile(model, backend="aot_eager", fullgraph=True)

    torch.testing.assert_close(graph(*given), model(*given))


def test_compiling_leaves_names_and_average_as_they_are() -> None:
    """A checkpoint fits a run with the other setting."""
    learners = [
        Trainer(from_options(TINY | {"compile": wanted}).resolve(), digits(), 10, ALONE) for wanted in ("no", "yes")
    ]
    compiled, plain = (trainer.state_dict() for trainer in reversed(learners))

    assert isinstance(learners[1]._parallel, torch._dynamo.OptimizedModule)
    assert set(compiled["model"]) == set(plain["model"]) == set(compiled["ema"]["model"])


def test_the_average_follows_a_plain_loop() -> None:
    """With warm-up (1+s)/(10+s) and the cap, against float64 arithmetic written out."""
    live, average = torch.randn(2, 3), torch.zeros(2, 3)
    expected = average.double()
    for s in range(20):
        live.add_(torch.randn(2, 3, generator=torch.Generator().manual_seed(s)))
        update_average([average], [live], s, 0.5)
        decay = min(0.5, (1 + s) / (10 + s))
        expected = decay * expected + (1 - decay) * live.double()

    torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-6)


def test_the_average_is_restored_and_has_no_gradients() -> None:
    """After loading, average and count are those that were saved; earlier versions read ``updates``."""
    first, second = (Trainer(from_options(TINY).resolve(), digits(), 10, ALONE) for _ in range(2))
    next(first.train_epoch(0))
    state = first.state_dict()
    second.load_state_dict(state)

    assert (second.step, state["ema"]["updates"]) == (1, 1)
    assert all(map(torch.equal, first.ema_model.parameters(), second.ema_model.parameters()))
    assert not any(p.requires_grad for p in second.ema_model.parameters())
