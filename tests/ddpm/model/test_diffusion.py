"""The diffusion process against formulas worked out independently of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mlflow_ddpm.ddpm.model import diffusion

torch.set_num_threads(1)

T = 1000
PREDICTIONS = pytest.mark.parametrize("prediction", ["v", "eps"])


def images(count: int = 6, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images and noise, (B, 1, 8, 8) float64."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.rand(count, 1, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1
    return x_0, torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)


def levels(count: int = 6) -> Tensor:
    """Values of alpha_bar, (B, 1, 1, 1) float64."""
    return torch.linspace(0.02, 0.98, count, dtype=torch.float64).view(-1, 1, 1, 1)


def test_the_schedule_is_the_cosine_of_the_paper() -> None:
    """Against eq. 17 in float64; before beta's clip bites alpha_bar is f(t) / f(0) itself."""
    t = np.arange(T + 1, dtype=np.float64)
    f = np.cos((t / T + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha_bar = diffusion.cosine_alpha_bar(T).numpy()

    np.testing.assert_allclose(alpha_bar[:-1], (f / f[0])[1:-1], rtol=1e-6)
    assert alpha_bar.shape == (T,)
    assert (np.diff(alpha_bar) < 0).all()
    assert 0 < alpha_bar[-1] == pytest.approx(1e-3 * alpha_bar[-2], rel=1e-4)  # beta = 0.999


def test_noising_keeps_unit_variance_and_ends_in_noise() -> None:
    """Signal and noise scales lie on the unit circle; at the last timestep nearly nothing of the image is left."""
    x_0, eps = images()
    last = diffusion.cosine_alpha_bar(T).double()[-1].view(1, 1, 1, 1)

    assert torch.allclose(
        torch.zeros_like(x_0).add(1),
        diffusion.q_sample(torch.ones_like(x_0), 0 * eps, levels()) ** 2
        + diffusion.q_sample(0 * x_0, torch.ones_like(eps), levels()) ** 2,
    )
    assert torch.allclose(eps, diffusion.q_sample(x_0, eps, last), atol=1e-3)


@PREDICTIONS
def test_image_and_noise_are_recovered_from_the_true_target(prediction: str) -> None:
    """The targets of v and eps, solved for x_0, give it back; and a step from there keeps the noise."""
    x_0, eps = images()
    x_t = diffusion.q_sample(x_0, eps, levels())
    found = diffusion.predicted_x_0(prediction, diffusion.target(prediction, x_0, eps, levels()), x_t, levels())
    stepped = diffusion.ddim_step(found, x_t, levels(), (1 + levels()) / 2)

    torch.testing.assert_close(found, x_0)
    torch.testing.assert_close(stepped, diffusion.q_sample(x_0, eps, (1 + levels()) / 2))


def test_velocity_is_the_derivative_along_the_circle() -> None:
    """Salimans & Ho: with alpha_bar = cos(phi)^2, v = d x_phi / d phi; here by a central difference."""
    x_0, eps = images()
    phi, h = torch.acos(levels().sqrt()), 1e-6
    numeric = (
        diffusion.q_sample(x_0, eps, torch.cos(phi + h) ** 2) - diffusion.q_sample(x_0, eps, torch.cos(phi - h) ** 2)
    ) / (2 * h)

    torch.testing.assert_close(diffusion.target("v", x_0, eps, levels()), numeric, rtol=1e-6, atol=1e-6)


def test_the_posterior_is_that_of_bayes() -> None:
    """q(x_s | x_t, x_0) is proportional to q(x_t | x_s) q(x_s | x_0): the product of two Gaussians, worked out here."""
    x_0, eps = images()
    alpha_bar_s, alpha_bar_t = levels(), levels() * 0.7
    x_t = diffusion.q_sample(x_0, eps, alpha_bar_t)
    alpha = alpha_bar_t / alpha_bar_s
    precision = alpha / (1 - alpha) + 1 / (1 - alpha_bar_s)
    expected = (alpha.sqrt() * x_t / (1 - alpha) + alpha_bar_s.sqrt() * x_0 / (1 - alpha_bar_s)) / precision
    mean, variance = diffusion.posterior(x_0, x_t, alpha_bar_t, alpha_bar_s)

    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(variance, 1 / precision)


def test_the_last_ancestral_step_adds_no_noise() -> None:
    """Where s is the clean image the posterior is a point at x_0."""
    x_0, eps = images()
    mean, variance = diffusion.posterior(x_0, eps, levels(), torch.ones(1, dtype=torch.float64))

    torch.testing.assert_close(mean, x_0)
    assert variance.abs().max() == 0


def test_the_loss_is_the_mean_squared_error_of_each_image() -> None:
    """Per image, at its own timestep; zero for a model that answers with the target."""
    x_0, eps = images()
    alpha_bar = diffusion.cosine_alpha_bar(T).double()
    timestep = torch.tensor([0, 10, 300, 500, 900, 999])
    at = alpha_bar[timestep].view(-1, 1, 1, 1)
    v = at.sqrt() * eps - (1 - at).sqrt() * x_0
    offset = torch.arange(6.0, dtype=torch.float64).view(-1, 1, 1, 1)
    loss = diffusion.loss_per_image(lambda _x, _t: v + offset, x_0, eps, timestep, alpha_bar=alpha_bar, prediction="v")

    torch.testing.assert_close(loss, torch.arange(6.0, dtype=torch.float64) ** 2)


@PREDICTIONS
@pytest.mark.parametrize("steps", [1, 5, 50])
def test_ddim_with_the_true_answer_recovers_the_image(prediction: str, steps: int) -> None:
    """From x_T of one image, a model that knows it is led back to it in any number of steps."""
    x_0, eps = images()
    alpha_bar = diffusion.cosine_alpha_bar(50).double()
    x_t = diffusion.q_sample(x_0, eps, alpha_bar[-1])

    def knows(x_t: Tensor, timestep: Tensor) -> Tensor:
        at = alpha_bar[timestep].view(-1, 1, 1, 1)
        noise = (x_t - at.sqrt() * x_0) / (1 - at).sqrt()
        return diffusion.target(prediction, x_0, noise, at)

    found = diffusion.sample(knows, x_t, alpha_bar=alpha_bar, prediction=prediction, steps=steps)

    torch.testing.assert_close(found, x_0, rtol=0, atol=1e-5)


def gaussian_posterior_mean(x_t: Tensor, at: Tensor, mean: float, std: float) -> Tensor:
    """E[x_0 | x_t] where x_0 is N(mean, std^2): the best answer any model can give."""
    return mean + at.sqrt() * std**2 * (x_t - at.sqrt() * mean) / (at * std**2 + 1 - at)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_samplers_draw_from_the_distribution_of_a_perfect_model(sampler: str) -> None:
    """Data N(0.1, 0.2^2) has a closed-form model; 20,000 pixels drawn with it have that mean and spread."""
    alpha_bar = diffusion.cosine_alpha_bar(400).double()
    generator = torch.Generator().manual_seed(0)

    def perfect(x_t: Tensor, timestep: Tensor) -> Tensor:
        at = alpha_bar[timestep].view(-1, 1, 1, 1)
        x_0 = gaussian_posterior_mean(x_t, at, 0.1, 0.2)
        return diffusion.target("v", x_0, (x_t - at.sqrt() * x_0) / (1 - at).sqrt(), at)

    start = torch.randn(50, 1, 20, 20, generator=generator, dtype=torch.float64)
    fresh = generator if sampler == "ancestral" else None
    x = diffusion.sample(perfect, start, alpha_bar=alpha_bar, prediction="v", steps=400, generator=fresh)

    assert float(x.mean()) == pytest.approx(0.1, abs=0.006)  # 4 standard errors
    assert float(x.std()) == pytest.approx(0.2, rel=0.03)


def test_guidance_goes_from_no_class_past_the_class() -> None:
    """Scale 0 is the unconditional answer, 1 the conditional one, 2 as far again beyond it."""
    x_t, _ = images(3)
    labels = torch.tensor([1, 2, 3])

    def predict(x_t: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        return x_t + timestep.view(-1, 1, 1, 1) + torch.where(labels == 9, 0, labels).view(-1, 1, 1, 1)

    def added(guidance_scale: float) -> list[float]:
        guided = diffusion.guide(predict, labels, null_class=9, guidance_scale=guidance_scale)
        return [round(float(v), 6) for v in (guided(x_t, torch.full((3,), 7)) - x_t - 7)[:, 0, 0, 0]]

    assert [added(0), added(1), added(2)] == [[0, 0, 0], [1, 2, 3], [2, 4, 6]]


@pytest.mark.parametrize(("steps", "expected"), [(1, [9]), (2, [9, 0]), (10, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0])])
def test_strided_timesteps_run_from_the_last_to_the_first(steps: int, expected: list[int]) -> None:
    """No timestep twice, both ends included."""
    assert expected == diffusion.strided_timesteps(10, steps)


def test_alpha_bar_near_one_keeps_its_distance_from_one() -> None:
    """The first step's noise is not lost to float32: 1 - alpha_bar_0 agrees with the formula to 1 %."""
    f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0, 1)]

    assert 1 - float(diffusion.cosine_alpha_bar(T)[0]) == pytest.approx(1 - f[1] / f[0], rel=1e-2)
