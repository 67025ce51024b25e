"""The Fréchet distance between two sets of features: how far apart two Gaussians fitted to them are.

Letters: N feature vectors, D features. All of it in float64 on the CPU, where D is small and every digit repeats.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D), float64 on the CPU."""

    mean: Tensor
    cov: Tensor


def fit_gaussian(features: Tensor) -> Gaussian:
    """Return the Gaussian of features (N, D), N >= 2: their mean, and their covariance with divisor N - 1."""
    x = features.detach().cpu().double()
    mean = x.mean(0)
    centred = x - mean  # (N, D)
    return Gaussian(mean, centred.T @ centred / (len(x) - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return the squared Fréchet distance, >= 0 (Dowson & Landau 1982), which Heusel et al. 2017 take of Inception.

    ``|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))``. The last trace is the sum of the singular
    values of ``cov_a^(1/2) cov_b^(1/2)``: no root is taken of the product, which is not symmetric, nor of its
    eigenvalues, which would halve the digits. Covariances of less than full rank are as good as others.
    """
    shift = (a.mean - b.mean).square().sum()
    together = torch.linalg.svdvals(_root(a.cov) @ _root(b.cov)).sum()
    return max(float(shift + a.cov.trace() + b.cov.trace() - 2 * together), 0.0)  # rounding may go below


def _root(cov: Tensor) -> Tensor:
    """Return the symmetric square root of a covariance (D, D); what rounding made negative counts as zero."""
    values, vectors = torch.linalg.eigh(cov)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
