"""Sample quality: classifier accuracy and Fréchet distance in a small classifier's feature space.

The real images of each class are split once: two halves of equal size to compare with, and other images that the
classifier is fitted on. Samples have the classes of one half and are measured against the other half, just as the first
half itself is. Both distances then rest on the same number of images, and are too large by about the same amount: a
Fréchet distance of finite samples is biased, the more the fewer there are (Chong & Forsyth 2020). A perfect model has
``sample/real_frechet``, not zero.

Letters: N images or feature vectors, D features, K classes.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.data.images import Dataset, LabelledImages
from mlflow_ddpm.ddpm.evaluation.classifier import FEATURES, Classifier
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.sampling import draw_samples
from mlflow_ddpm.ddpm.seeds import Purpose, seeded_generator

_SPLIT_SEED = 0  # fixed: every run of a data set is compared with the same images
_FIT_PER_CLASS, _HELD_OUT_MAX = 1000, 2000


class SampleQuality(NamedTuple):
    """One evaluation; None where there were too few images to measure a distance."""

    accuracy: float
    accuracy_g1: float
    frechet: float | None
    frechet_g1: float | None
    real_frechet: float | None
    classifier_accuracy: float

    def metrics(self) -> dict[str, float | None]:
        """Return the values by their names in :mod:`mlflow_ddpm.core.extra_metrics`."""
        return {f"sample/{name}": value for name, value in self._asdict().items()}


class _Splits(NamedTuple):
    """Real images that share none: two halves with as many of each class, and others to fit on."""

    reference: LabelledImages
    other: LabelledImages
    fit: LabelledImages


class SampleEvaluator:
    """Evaluates samples of one run; the classifier is fitted at the first evaluation."""

    def __init__(self, config: Config, dataset: Dataset, device: torch.device) -> None:
        """Take ``sample.eval_per_class`` of each class, a third of the class at most; the dataset is on the CPU."""
        self._config, self._dataset, self._device = config, dataset, device

    @cached_property
    def _splits(self) -> _Splits:
        return _split(self._dataset.train, self._config.sample.eval_per_class, self._device)

    @cached_property
    def _classifier(self) -> Classifier:
        classes, image_size = len(self._dataset.class_names), self._config.data.image_size
        return Classifier(self._splits.fit, image_size=image_size, classes=classes)

    @cached_property
    def _reference(self) -> Gaussian:
        return fit_gaussian(self._classifier.features(self._splits.reference.images))

    @cached_property
    def _real_baseline(self) -> tuple[float | None, float]:
        """The distance of the halves, and the classifier's accuracy on held-out images."""
        test = self._dataset.test
        held_out = test.take(_shuffled(len(test.labels))[:_HELD_OUT_MAX], self._device)  # always the same ones
        accuracy = self._classifier.accuracy(self._classifier.features(held_out.images), held_out.labels)
        return self._distance(self._classifier.features(self._splits.other.images)), accuracy

    def evaluate(self, model: UNet) -> SampleQuality:
        """Return the quality of the model's samples; the same model always gets the same values."""
        accuracy, distance = self._evaluate_at(model, 2.0)
        accuracy_g1, distance_g1 = self._evaluate_at(model, 1.0)
        real_distance, classifier_accuracy = self._real_baseline
        return SampleQuality(accuracy, accuracy_g1, distance, distance_g1, real_distance, classifier_accuracy)

    def _evaluate_at(self, model: UNet, guidance_scale: float) -> tuple[float, float | None]:
        """Return accuracy and distance of samples of the other half's classes."""
        labels = self._splits.other.labels.cpu()  # (N,)
        generator = seeded_generator(self._config.train.seed, Purpose.EVALUATION)
        images = draw_samples(model, self._config, labels, guidance_scale=guidance_scale, generator=generator)
        features = self._classifier.features(images)
        return self._classifier.accuracy(features, labels), self._distance(features)

    def _distance(self, features: Tensor) -> float | None:
        """Return the distance of features (N, D) from the reference; None where cov would not have full rank."""
        return frechet_distance(fit_gaussian(features), self._reference) if len(features) > FEATURES else None


def _split(real: LabelledImages, per_class: int, device: torch.device) -> _Splits:
    """Split the images of each class, shuffled, into two halves and up to a thousand to fit on, on the device."""
    labels = real.labels.cpu()
    order = _shuffled(len(labels))
    order = order[labels[order].argsort(stable=True)]  # (N,) class by class, shuffled within each
    counts, label = labels.bincount(), labels[order]  # (K,), (N,)
    rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[label]  # (N,) from 0 within the class
    half = (counts // 3).clamp(max=per_class)[label]  # (N,)
    return _Splits(
        reference=real.take(order[rank < half], device),
        other=real.take(order[(rank >= half) & (rank < 2 * half)], device),
        fit=real.take(order[(rank >= 2 * half) & (rank < 2 * half + _FIT_PER_CLASS)], device),
    )


def _shuffled(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(_SPLIT_SEED))


class Gaussian(NamedTuple):
    """Mean (D,) and covariance (D, D), float64 on the CPU, where D is small and every digit repeats."""

    mean: Tensor
    cov: Tensor


def fit_gaussian(features: Tensor) -> Gaussian:
    """Return the Gaussian of features (N, D), N >= 2: their mean, and their covariance with divisor N - 1."""
    x = features.detach().cpu().double()
    return Gaussian(x.mean(0), x.T.cov())


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
