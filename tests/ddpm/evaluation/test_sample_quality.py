"""Sample quality: a classifier fitted in seconds, and how far samples are from real images in its feature space."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from support.pipeline import TINY, KillAt, KilledError, measured
from torch import Tensor

from mlflow_ddpm.ddpm.config.config import Config, from_options
from mlflow_ddpm.ddpm.data.images import Dataset, LabelledImages
from mlflow_ddpm.ddpm.data.loading import load_digits
from mlflow_ddpm.ddpm.evaluation import sample_quality
from mlflow_ddpm.ddpm.evaluation.classifier import FEATURES, Classifier
from mlflow_ddpm.ddpm.evaluation.sample_quality import Gaussian, SampleEvaluator, fit_gaussian, frechet_distance
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.train import train
from mlflow_ddpm.ddpm.training.trainer import build_model

torch.set_num_threads(1)

CPU = torch.device("cpu")


@cache
def digits() -> Dataset:
    """The digits at 8x8."""
    return load_digits(8)


@cache
def digits_evaluator() -> SampleEvaluator:
    """An evaluator of 8x8 digits; its classifier is fitted once."""
    return SampleEvaluator(settings(), digits(), CPU)


def settings(**values: object) -> Config:
    """Settings of a tiny model on 8x8 digits, with few steps a sample."""
    chosen: dict[str, object] = {"base_channels": 8, "channel_mults": (1,), "image_size": 8, "sample_steps": 2}
    return from_options(chosen | {"timesteps": 20, "eval_per_class": 10} | values).resolve()


def untrained(config: Config) -> UNet:
    """A model that draws noise."""
    return build_model(config, 10).eval()


def dealt(labels: Tensor, per_class: int) -> list[LabelledImages]:
    """Deal images whose one pixel is their position, so that each can be told from every other."""
    images = torch.arange(len(labels)).view(-1, 1, 1, 1)
    return list(sample_quality._split(LabelledImages(images, labels), per_class, CPU))


def test_the_halves_share_no_image_and_have_as_many_of_each_class() -> None:
    """Nor does the classifier see any of them."""
    labels = torch.tensor([0] * 40 + [1] * 7 + [2] * 100)[torch.randperm(147)]
    reference, other, fit = dealt(labels, 5)
    seen = torch.cat([part.images.flatten() for part in (reference, other, fit)])

    assert reference.labels.bincount().tolist() == other.labels.bincount().tolist() == [5, 2, 5]
    assert fit.labels.bincount().tolist() == [30, 3, 90]
    assert sorted(seen.tolist()) == list(range(147))
    for part in (reference, other, fit):
        assert torch.equal(labels[part.images.flatten()], part.labels)


def test_the_classifier_knows_real_digits_and_is_not_fooled_by_wrong_labels() -> None:
    """95 % of 297 real digits that it never saw, at 8x8; nothing is right when every label is off by one."""
    evaluator, test = digits_evaluator(), digits().test
    features = evaluator._classifier.features(test.images)

    assert evaluator._classifier.accuracy(features, test.labels) >= 0.95
    assert evaluator._classifier.accuracy(features, (test.labels + 1) % 10) <= 0.03


def test_the_same_images_make_the_same_classifier_whatever_was_drawn_before() -> None:
    """To the last bit; and the caller's own random numbers go on as if nothing had been fitted."""
    few = LabelledImages(digits().train.images[:200], digits().train.labels[:200])
    torch.manual_seed(1)
    first = Classifier(few, image_size=8, classes=10)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    expected = torch.rand(1)
    again = Classifier(few, image_size=8, classes=10)

    assert torch.equal(first.features(few.images), again.features(few.images))
    assert torch.equal(expected, drawn)


def test_samples_of_an_untrained_model_are_judged_near_chance_and_far_from_real() -> None:
    """Noise is named right one time in ten, and lies many times as far from real digits as real digits do."""
    config = settings()
    judged = digits_evaluator().evaluate(untrained(config))

    assert judged.accuracy < 0.4
    assert judged.accuracy_g1 < 0.4
    assert judged.classifier_accuracy >= 0.95
    assert judged.real_frechet is not None
    assert 0 < judged.real_frechet < 10
    for distance in (judged.frechet, judged.frechet_g1):
        assert distance is not None
        assert distance > 5 * judged.real_frechet


def test_real_images_in_place_of_samples_are_as_near_as_the_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judgement of a perfect model: real accuracy, and the halves' own distance at both guidances."""
    evaluator = digits_evaluator()
    monkeypatch.setattr(sample_quality, "draw_samples", lambda *_, **__: evaluator._splits.other.images)
    judged = evaluator.evaluate(untrained(settings()))

    assert judged.frechet == judged.frechet_g1 == judged.real_frechet
    assert judged.accuracy >= 0.93


def test_a_model_that_always_draws_the_same_image_of_a_class_is_accurate_and_far_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Accuracy alone would praise it: the distance is what sees that variety is missing."""
    evaluator = digits_evaluator()
    other = evaluator._splits.other
    first = torch.stack([other.images[other.labels == k][0] for k in range(10)])
    monkeypatch.setattr(sample_quality, "draw_samples", lambda *_, **__: first[other.labels])
    judged = evaluator.evaluate(untrained(settings()))

    assert judged.accuracy >= 0.8
    assert judged.frechet is not None
    assert judged.real_frechet is not None
    assert judged.frechet > 3 * judged.real_frechet


def test_the_same_model_is_judged_the_same_by_another_process() -> None:
    """A judge made anew, as after a resume, says the same to the last bit."""
    config = settings(eval_per_class=5)
    few = digits()._replace(train=LabelledImages(*(part[:400] for part in digits().train)))
    model = untrained(config)
    first, again = (SampleEvaluator(config, few, CPU).evaluate(model) for _ in range(2))

    assert first.frechet is not None
    assert again == first


def test_too_few_samples_for_a_distance_leave_it_unmeasured() -> None:
    """A covariance of 32 features needs more images than that; accuracies are measured all the same."""
    config = settings(eval_per_class=FEATURES // 10)
    few = digits()._replace(train=LabelledImages(*(part[:400] for part in digits().train)))
    judged = SampleEvaluator(config, few, CPU).evaluate(untrained(config))

    assert (judged.frechet, judged.frechet_g1, judged.real_frechet) == (None, None, None)
    assert 0 <= judged.accuracy <= 1


def test_more_than_a_third_of_a_class_is_never_taken() -> None:
    """Asked for 500 of each, a judge of the digits takes what leaves it as many to fit on."""
    evaluator = SampleEvaluator(settings(eval_per_class=500), digits(), CPU)
    counts = digits().train.labels.bincount()

    assert evaluator._splits.other.labels.bincount().tolist() == (counts // 3).tolist()
    assert bool((evaluator._splits.fit.labels.bincount() >= counts // 3).all())


@pytest.mark.slow
def test_a_run_that_was_killed_is_judged_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a judgement and started again, by a judge that is fitted anew: the same rows to the last digit."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    config = from_options(TINY | {"epochs": 3, "eval_every": 1, "eval_per_class": 5})
    train(config, output_dir=tmp_path / "whole", tracking_uri=uri)
    with pytest.raises(KilledError):
        train(config, output_dir=tmp_path / "broken", tracking_uri=uri, progress=KillAt(1, 2))
    train(config, output_dir=tmp_path / "broken", tracking_uri=uri)
    whole, broken = measured(tmp_path / "whole"), measured(tmp_path / "broken")

    assert broken == whole
    assert [row["sample/frechet"] != "" for row in broken] == [True] * 3


# The Fréchet distance, against closed forms and against scipy's general matrix root.


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
