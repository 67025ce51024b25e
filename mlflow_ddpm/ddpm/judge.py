"""A classifier fitted on real images, and how many samples it names as the class that was asked for.

The classifier is scikit-learn's SVC on principal components of the pixels; it sees at most 5,000 training images, which
takes seconds. Its own accuracy on real held-out images is reported beside, since no sample can be judged better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlflow_ddpm.ddpm.config import Config
from mlflow_ddpm.ddpm.data import Dataset, LabelledImages, to_model_range
from mlflow_ddpm.ddpm.model import UNet
from mlflow_ddpm.ddpm.randomness import Purpose, seeded_generator
from mlflow_ddpm.ddpm.sampling import draw_samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Judge", "Judgement", "judge_samples"]

_FIT_ON, _EXAMINE_ON = 5000, 2000
_COMPONENTS = 64
_JUDGED = 200  # samples in all, where there are many classes
_FEWEST = 3  # samples a class


class Judgement(NamedTuple):
    """Shares, from 0 to 1, of images that the classifier names as their class."""

    sample_accuracy: float  # samples at guidance 2
    sample_accuracy_g1: float  # samples at guidance 1
    judge_accuracy: float  # real images held out


class Judge:
    """Names the class of images (N, 1, H, W) uint8."""

    def __init__(self, real: LabelledImages, image_size: int) -> None:
        """Fit on real images, a fixed choice of them where there are many."""
        from sklearn.decomposition import PCA
        from sklearn.pipeline import make_pipeline
        from sklearn.svm import SVC

        self._image_size = image_size
        chosen = _choose(real, _FIT_ON)
        features = self._features(chosen.images)
        pca = PCA(min(_COMPONENTS, *features.shape), svd_solver="full" if features.shape[1] <= _FIT_ON else "auto")
        self._classifier = make_pipeline(pca, SVC(C=10.0)).fit(features, chosen.labels.numpy())

    def accuracy(self, asked: LabelledImages) -> float:
        """Return the share of images named as their label says."""
        named = self._classifier.predict(self._features(asked.images))
        return float(np.mean(named == asked.labels.numpy()))

    def _features(self, images: Tensor) -> NDArray[np.float32]:
        flat: NDArray[np.float32] = to_model_range(images, self._image_size).flatten(1).numpy()  # (N, S S)
        return flat


def judge_samples(model: UNet, config: Config, dataset: Dataset) -> Judgement:
    """Return the judgement of the model's samples at guidance 1 and 2, ``judge_per_class`` of each class.

    With more than ten classes there are fewer of each, 200 in all but at least 3 a class. The dataset is on the CPU.
    """
    classes = len(dataset.class_names)
    per_class = min(config.sample.judge_per_class, max(_FEWEST, _JUDGED // classes))
    labels = torch.arange(classes).repeat_interleave(per_class)  # (K n,)
    judge = Judge(dataset.train, config.data.image_size or 0)

    def accuracy(guidance_scale: float) -> float:
        generator = seeded_generator(config.train.seed, Purpose.JUDGEMENT)
        images = draw_samples(model, config, labels, guidance_scale=guidance_scale, generator=generator)
        return judge.accuracy(LabelledImages(images, labels))

    return Judgement(
        sample_accuracy=accuracy(2.0),
        sample_accuracy_g1=accuracy(1.0),
        judge_accuracy=judge.accuracy(_choose(dataset.test, _EXAMINE_ON)),
    )


def _choose(real: LabelledImages, most: int) -> LabelledImages:
    """Return at most so many images, always the same ones."""
    if len(real.labels) <= most:
        return real
    chosen = torch.randperm(len(real.labels), generator=torch.Generator().manual_seed(0))[:most]
    return LabelledImages(real.images[chosen], real.labels[chosen])
