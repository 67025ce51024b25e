"""The moving average of the weights, beside arithmetic written out."""

from __future__ import annotations

import torch

from mlflow_ddpm.ddpm.model.ema import Ema


def test_the_average_follows_a_plain_loop() -> None:
    """With warm-up (1+s)/(10+s) and the cap, against float64 arithmetic written out."""
    live = torch.nn.Linear(3, 2)
    ema = Ema(live, 0.5)
    expected = live.weight.detach().double().clone()
    for s in range(20):
        with torch.no_grad():
            live.weight.add_(torch.randn(2, 3, generator=torch.Generator().manual_seed(s)))
        ema.update()
        decay = min(0.5, (1 + s) / (10 + s))
        expected = decay * expected + (1 - decay) * live.weight.detach().double()

    torch.testing.assert_close(ema.model.weight.double(), expected, rtol=1e-6, atol=1e-6)
    assert ema.updates == 20
    assert not ema.model.weight.requires_grad


def test_the_average_is_restored_with_its_count() -> None:
    """After loading, the next update is the one that would have come."""
    live = torch.nn.Linear(3, 2)
    first, second = Ema(live, 0.9), Ema(torch.nn.Linear(3, 2), 0.9)
    first.update()
    second.load_state_dict(first.state_dict())

    assert second.updates == 1
    assert torch.equal(first.model.weight, second.model.weight)
