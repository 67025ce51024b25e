"""The diffusion process against diffusers' schedulers, an implementation by other people.

Their schedule is float32. Where equations are compared, both sides take that schedule as float64 numbers, so that 1e-9
separates a wrong equation from rounding; where the schedules themselves are compared, the tolerance is float32's.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from mlflow_ddpm.ddpm.model import diffusion

pytestmark = pytest.mark.slow  # for the sake of diffusers' import: five seconds

torch.set_num_threads(1)

T = 1000
TIMESTEPS = torch.tensor([0, 7, 500, 990, 999])
PREDICTIONS = pytest.mark.parametrize("prediction", ["v", "eps"])
NAMED = {"v": "v_prediction", "eps": "epsilon"}
COSINE = {"num_train_timesteps": T, "beta_schedule": "squaredcos_cap_v2"}
EXACTLY: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def schedulers() -> Any:
    """The package, imported when the first test asks for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports' deprecations
        return pytest.importorskip("diffusers", reason="diffusers is not installed: pip install -e '.[bench]'")


def in_float64(scheduler: Any) -> tuple[Any, Tensor]:
    """Return a scheduler that computes in float64, and its alpha_bar, (T,)."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    return scheduler, scheduler.alphas_cumprod


def ddpm(prediction: str = "v") -> tuple[Any, Tensor]:
    """Their ancestral sampler (Ho et al. 2020): variance beta-tilde, x_0 kept in [-1, 1]."""
    return in_float64(
        schedulers().DDPMScheduler(**COSINE, prediction_type=NAMED[prediction], variance_type="fixed_small")
    )


def ddim(prediction: str) -> tuple[Any, Tensor]:
    """Their DDIM (Song et al. 2021), whose last step ends in the clean image, x_0 kept in [-1, 1]."""
    return in_float64(schedulers().DDIMScheduler(**COSINE, prediction_type=NAMED[prediction], set_alpha_to_one=True))


def drawn(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images() -> tuple[Tensor, Tensor]:
    """Images in [-1, 1] and noise, (B, 1, 8, 8), one for each timestep."""
    return drawn(5, 1, 8, 8, seed=0).clamp(-1, 1), drawn(5, 1, 8, 8, seed=1)


def network(x_t: Tensor, timestep: Tensor) -> Tensor:
    """Some smooth answer of the size of a prediction."""
    return (0.7 * x_t + timestep.view(-1, 1, 1, 1).double() / T).sin()


def test_the_schedule_is_theirs() -> None:
    """alpha_bar to 2e-5 of its value; the first noise levels, 1 - alpha_bar, to 1e-3 of theirs.

    They multiply a thousand factors in float32; we multiply in float64 and round once, and so does the true value.
    """
    ours, theirs = diffusion.cosine_alpha_bar(T), schedulers().DDPMScheduler(**COSINE).alphas_cumprod

    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=0)
    torch.testing.assert_close(1 - ours[:20], 1 - theirs[:20], rtol=1e-3, atol=0)


def test_noising_and_both_targets_are_theirs() -> None:
    """x_t (Ho et al. 2020, eq. 4) and v (Salimans & Ho 2022)."""
    (x_0, eps), (scheduler, alpha_bar) = images(), ddpm()
    at = alpha_bar[TIMESTEPS].view(-1, 1, 1, 1)
    x_t, v = scheduler.add_noise(x_0, eps, TIMESTEPS), scheduler.get_velocity(x_0, eps, TIMESTEPS)

    torch.testing.assert_close(diffusion.q_sample(x_0, eps, at), x_t, **EXACTLY)
    torch.testing.assert_close(diffusion.target("v", x_0, eps, at), v, **EXACTLY)
    assert torch.equal(diffusion.target("eps", x_0, eps, at), eps)


@PREDICTIONS
def test_the_loss_is_the_mean_squared_error_of_their_target(prediction: str) -> None:
    """Image by image, for a network that answers with a function of x_t and t (Ho et al. 2020, eq. 14)."""
    (x_0, eps), (scheduler, alpha_bar) = images(), ddpm()
    wanted = scheduler.get_velocity(x_0, eps, TIMESTEPS) if prediction == "v" else eps
    answer = network(scheduler.add_noise(x_0, eps, TIMESTEPS), TIMESTEPS)
    expected = [torch.nn.functional.mse_loss(a, w) for a, w in zip(answer, wanted, strict=True)]
    loss = diffusion.loss_per_image(network, x_0, eps, TIMESTEPS, alpha_bar=alpha_bar, prediction=prediction)

    torch.testing.assert_close(loss, torch.stack(expected), **EXACTLY)


@PREDICTIONS
@pytest.mark.parametrize("t", [1, 2, 500, 998, 999])
def test_posterior_and_ancestral_step_are_theirs(prediction: str, t: int) -> None:
    """Mean, variance and the step drawn from them with the same noise (Ho et al. 2020, eq. 6-7, algorithm 2)."""
    x_t, output = drawn(3, 1, 8, 8, seed=2), drawn(3, 1, 8, 8, seed=3)
    scheduler, alpha_bar = ddpm(prediction)
    found = diffusion.predicted_x_0(prediction, output, x_t, alpha_bar[t]).clamp(-1, 1)
    stepped = diffusion.ancestral_step(found, x_t, drawn(3, 1, 8, 8, seed=9), alpha_bar[t], alpha_bar[t - 1])
    _, variance = diffusion.posterior(found, x_t, alpha_bar[t], alpha_bar[t - 1])
    theirs = scheduler.step(output, t, x_t, generator=torch.Generator().manual_seed(9))

    torch.testing.assert_close(found, theirs.pred_original_sample, **EXACTLY)
    torch.testing.assert_close(stepped, theirs.prev_sample, **EXACTLY)
    torch.testing.assert_close(variance, scheduler._get_variance(t), rtol=1e-9, atol=0)


@PREDICTIONS
@pytest.mark.parametrize("steps", [1, 25, 1000])
def test_ancestral_sampling_is_theirs_from_noise_to_image(prediction: str, steps: int) -> None:
    """All steps through a network, on the same timesteps, with the same noise at each."""
    start, (scheduler, alpha_bar) = drawn(2, 1, 8, 8, seed=5), ddpm(prediction)
    told: dict[str, Any] = {"alpha_bar": alpha_bar, "prediction": prediction, "steps": steps}
    noise = torch.Generator().manual_seed(4)
    ours = diffusion.sample(network, start, generator=noise, **told)
    noise, x_t = noise.manual_seed(4), start
    scheduler.set_timesteps(timesteps=diffusion.strided_timesteps(T, steps))
    for t in scheduler.timesteps:
        x_t = scheduler.step(network(x_t, t.expand(2)), t, x_t, generator=noise).prev_sample

    torch.testing.assert_close(ours, x_t, **EXACTLY)


@PREDICTIONS
@pytest.mark.parametrize("steps", [1, 25, 1000])
def test_ddim_is_theirs_from_noise_to_image(prediction: str, steps: int) -> None:
    """All steps through a network (Song et al. 2021, eq. 12, sigma = 0), eps agreeing with the x_0 that was kept.

    Their step goes ``num_train_timesteps // num_inference_steps`` back, whatever the list of timesteps says: it is told
    the true stride before each, on timesteps that are the same as their own ``linspace`` spacing's.
    """
    start, (scheduler, alpha_bar) = drawn(2, 1, 8, 8, seed=5), ddim(prediction)
    ours = diffusion.sample(network, start, alpha_bar=alpha_bar, prediction=prediction, steps=steps)
    times, x_t = diffusion.strided_timesteps(T, steps), start
    scheduler.num_inference_steps = 1
    for t, s in zip(times, [*times[1:], -1], strict=True):
        scheduler.register_to_config(num_train_timesteps=t - s)
        x_t = scheduler.step(network(x_t, torch.full((2,), t)), t, x_t, use_clipped_model_output=True).prev_sample

    torch.testing.assert_close(ours, x_t, **EXACTLY)


@pytest.mark.parametrize("steps", [2, 10, 25, 1000])
def test_our_timesteps_are_their_linspace_spacing(steps: int) -> None:
    """From T - 1 to 0, both included."""
    scheduler = schedulers().DDIMScheduler(**COSINE, timestep_spacing="linspace")
    scheduler.set_timesteps(steps)

    assert scheduler.timesteps.tolist() == diffusion.strided_timesteps(T, steps)
