"""The Fréchet distance, against closed forms and against scipy's general matrix root."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mlflow_ddpm.ddpm.evaluation.frechet import Gaussian, fit_gaussian, frechet_distance

torch.set_num_threads(1)


def random_cov(size: int, rank: int, seed: int) -> Tensor:
    """A covariance of the given rank."""
    factor = torch.randn(size, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.T


def gaussian(seed: int, size: int = 32, rank: int = 32) -> Gaussian:
    """Any Gaussian."""
    mean = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + seed))
    return Gaussian(mean, random_cov(size, rank, seed))


def test_a_shift_counts_by_its_square() -> None:
    """Equal covariances, means 3 and 4 apart along two axes: 25."""
    a = gaussian(0)
    shift = torch.zeros(32, dtype=torch.float64)
    shift[:2] = torch.tensor([3.0, 4.0])

    assert frechet_distance(a, Gaussian(a.mean + shift, a.cov)) == pytest.approx(25, rel=1e-12)


def test_covariances_that_commute_have_a_closed_form() -> None:
    """The same axes, standard deviations s and t: the sum of (s - t)^2."""
    axes, _ = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))
    s, t = torch.linspace(0.1, 3, 16, dtype=torch.float64), torch.linspace(2, 0.5, 16, dtype=torch.float64)
    zero = torch.zeros(16, dtype=torch.float64)
    a, b = (Gaussian(zero, (axes * sd**2) @ axes.T) for sd in (s, t))

    assert frechet_distance(a, b) == pytest.approx(float((s - t).square().sum()), rel=1e-10)


@pytest.mark.parametrize(("rank_a", "rank_b"), [(32, 32), (32, 7), (5, 9), (1, 1)])
def test_it_agrees_with_the_matrix_root_of_scipy(rank_a: int, rank_b: int) -> None:
    """Which roots the product itself, by Schur's decomposition; near singular the product gives it half the digits."""
    linalg = pytest.importorskip("scipy.linalg", reason="scikit-learn brings scipy")
    a, b = gaussian(1, rank=rank_a), gaussian(2, rank=rank_b)
    full = rank_a == rank_b == 32
    of_a, of_b = (g.cov.numpy() + (0 if full else 1e-9) * np.eye(32) for g in (a, b))
    expected = np.sum((a.mean - b.mean).numpy() ** 2) + np.trace(of_a + of_b - 2 * linalg.sqrtm(of_a @ of_b).real)

    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9 if full else 1e-3)


@pytest.mark.parametrize("rank", [32, 7])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_equal_sets_have_no_distance_and_it_is_symmetric(rank: int, scale: float) -> None:
    """To 14 digits of the covariance's size, whatever its rank."""
    a, b = gaussian(3, rank=rank), gaussian(4, rank=rank)
    a, b = (Gaussian(g.mean * math.sqrt(scale), g.cov * scale) for g in (a, b))

    assert 0 <= frechet_distance(a, a) <= 1e-14 * float(a.cov.trace()) * 32
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-12)
    assert frechet_distance(a, b) > 0.1 * scale


def test_a_gaussian_is_fitted_in_float64_with_divisor_n_minus_1() -> None:
    """As numpy does it, far from the origin too, where float32 would have lost the spread."""
    features = torch.randn(500, 8) + 1000
    fitted = fit_gaussian(features)

    assert fitted.cov.dtype == torch.float64
    np.testing.assert_allclose(fitted.mean, features.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(fitted.cov, np.cov(features.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-9)


def test_samples_of_known_gaussians_have_nearly_the_known_distance() -> None:
    """20,000 of each: a shift of 1 in one of 4 axes, and twice the standard deviation in another: 2 within 5 %."""
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(20_000, 4, generator=g), torch.randn(20_000, 4, generator=g)
    b = b * torch.tensor([1.0, 2.0, 1.0, 1.0]) + torch.tensor([1.0, 0.0, 0.0, 0.0])

    assert frechet_distance(fit_gaussian(a), fit_gaussian(b)) == pytest.approx(2, rel=0.05)


def test_fewer_samples_are_further_apart() -> None:
    """The bias for which the halves of real data are reported beside: one distribution, and a distance all the same."""
    g = torch.Generator().manual_seed(0)
    pairs = [[fit_gaussian(torch.randn(n, 32, generator=g)) for _ in range(2)] for n in (100, 400, 1600)]
    of = [frechet_distance(a, b) for a, b in pairs]

    assert of[0] > 2 * of[1] > 4 * of[2] > 0
