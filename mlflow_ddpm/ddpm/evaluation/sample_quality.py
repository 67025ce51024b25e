"""Samples judged beside real images, without a download: are they named as asked, and how far from real are they?

The real images of each class are dealt out once and for all: two halves of equal size to compare with, and from what is
left those that the classifier is fitted on. Samples are asked for the very classes of one half and measured against
the other, just as that half itself is. Both distances then rest on the same number of images, and are too large by
about the same amount: a Fréchet distance of finite samples is biased, the more the fewer there are (Chong & Forsyth
2020). A model that draws as the data does comes down to ``real_frechet``, not to zero.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.data.loading import Dataset, LabelledImages
from mlflow_ddpm.ddpm.evaluation.classifier import FEATURES, Classifier
from mlflow_ddpm.ddpm.evaluation.frechet import Gaussian, fit_gaussian, frechet_distance
from mlflow_ddpm.ddpm.model.seeds import Purpose, seeded_generator
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.sampling.draw import draw_samples

__all__ = ["SampleEvaluator", "SampleQuality"]

_DEALT_BY = 0  # a fixed seed: every run of a data set is compared with the same images
_FIT_PER_CLASS, _EXAMINE_ON = 1000, 2000


class SampleQuality(NamedTuple):
    """What :mod:`mlflow_ddpm.core.metrics` tells of these names; None where there were too few images to measure it."""

    sample_accuracy: float
    sample_accuracy_g1: float
    sample_frechet: float | None
    sample_frechet_g1: float | None
    real_frechet: float | None
    judge_accuracy: float


class _Dealt(NamedTuple):
    """Real images that share none: two halves with as many of each class, and others to fit on."""

    reference: LabelledImages
    other: LabelledImages
    fit: LabelledImages


class SampleEvaluator:
    """Judges samples of one run; the classifier is fitted when the first are judged."""

    def __init__(self, config: Config, dataset: Dataset, device: torch.device) -> None:
        """Take ``sample.judge_per_class`` of each class, a third of the class at most; the dataset is on the CPU."""
        self._config, self._dataset, self._device = config, dataset, device

    @cached_property
    def _dealt(self) -> _Dealt:
        dealt = _deal(self._dataset.train, self._config.sample.judge_per_class)
        return _Dealt(*(part.to(self._device) for part in dealt))

    @cached_property
    def _classifier(self) -> Classifier:
        classes, image_size = len(self._dataset.class_names), self._config.data.image_size or 0
        return Classifier(self._dealt.fit, image_size=image_size, classes=classes)

    @cached_property
    def _reference(self) -> Gaussian:
        return fit_gaussian(self._classifier.features(self._dealt.reference.images))

    @cached_property
    def _of_real(self) -> tuple[float | None, float]:
        """The distance of the halves, and the classifier's accuracy on held-out images."""
        held_out = _choose(self._dataset.test, _EXAMINE_ON)
        accuracy = self._classifier.accuracy(self._classifier.features(held_out.images), held_out.labels)
        return self._distance(self._classifier.features(self._dealt.other.images)), accuracy

    def judge(self, model: UNet) -> SampleQuality:
        """Return the judgement of the model's samples. The same model gets the same judgement, whenever it is asked."""
        accuracy, distance = self._judge_at(model, 2.0)
        accuracy_g1, distance_g1 = self._judge_at(model, 1.0)
        real_distance, judge_accuracy = self._of_real
        return SampleQuality(accuracy, accuracy_g1, distance, distance_g1, real_distance, judge_accuracy)

    def _judge_at(self, model: UNet, guidance_scale: float) -> tuple[float, float | None]:
        """Return accuracy and distance of samples of the other half's classes."""
        labels = self._dealt.other.labels.cpu()  # (N,)
        generator = seeded_generator(self._config.train.seed, Purpose.JUDGEMENT)
        images = draw_samples(model, self._config, labels, guidance_scale=guidance_scale, generator=generator)
        features = self._classifier.features(images)
        return self._classifier.accuracy(features, labels), self._distance(features)

    def _distance(self, features: Tensor) -> float | None:
        """Return the distance of features (N, D) from the reference; of so few that cov has no full rank, None."""
        return frechet_distance(fit_gaussian(features), self._reference) if len(features) > FEATURES else None


def _deal(real: LabelledImages, per_class: int) -> _Dealt:
    """Deal the images of each class, shuffled: half, half, and up to a thousand to fit on."""
    labels = real.labels.cpu()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_DEALT_BY))
    order = order[labels[order].argsort(stable=True)]  # (N,) class by class, shuffled within each
    counts, of = labels.bincount(), labels[order]  # (K,), (N,)
    place = torch.arange(len(order)) - (counts.cumsum(0) - counts)[of]  # (N,) from 0 within the class
    half = (counts // 3).clamp(max=per_class)[of]  # (N,)
    return _Dealt(
        reference=_pick(real, order[place < half]),
        other=_pick(real, order[(place >= half) & (place < 2 * half)]),
        fit=_pick(real, order[(place >= 2 * half) & (place < 2 * half + _FIT_PER_CLASS)]),
    )


def _choose(real: LabelledImages, most: int) -> LabelledImages:
    """Return at most so many images, always the same ones."""
    order = torch.randperm(len(real.labels), generator=torch.Generator().manual_seed(_DEALT_BY))
    return _pick(real, order[:most])


def _pick(real: LabelledImages, chosen: Tensor) -> LabelledImages:
    return LabelledImages(real.images[chosen], real.labels[chosen])
