"""A small convolutional network that names classes, and whose last layer but one is a space to measure distances in.

It is fitted within seconds and depends on its images alone, not on the run's seed: runs of one data set are all
measured by the same ruler.

Letters: N images, B of a batch, S side that the network sees, D features, K classes.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from mlflow_ddpm.ddpm.data.images import LabelledImages, to_model_range

FEATURES = 32  # D: few, so that some hundred images suffice for a covariance of them
_WIDTH = 16
_SEED = 0
_BATCH, _PASSES = 64, 20  # through the images
_STEPS_PER_CLASS = 60  # at most
_LR, _WARM_UP = 5e-3, 0.2
_SMOOTHING = 0.1
_PORTION = 512  # images at a time


class Classifier:
    """Names the class of images (N, 1, H, W) uint8, and gives their features."""

    def __init__(self, real: LabelledImages, *, image_size: int, classes: int) -> None:
        """Fit on real images; the network lives on their device."""
        self._image_size = image_size
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(_SEED)
            self._body, self._head = _build_body(image_size), nn.Linear(FEATURES, classes)
        self._network = nn.Sequential(self._body, self._head).to(real.images.device)
        self._fit(real, min(_STEPS_PER_CLASS * classes, _PASSES * -(-len(real.labels) // _BATCH)))

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Return (N, D) on the network's device."""
        device = self._head.weight.device
        portions = [to_model_range(part.to(device), self._image_size) for part in images.split(_PORTION)]
        return torch.cat([self._body(x) for x in portions])

    @torch.no_grad()
    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """Return the share of images, given by their features (N, D), that are named as their label (N,)."""
        named = self._head(features).argmax(1)
        return float((named == labels.to(named.device)).double().mean())

    def _fit(self, real: LabelledImages, steps: int) -> None:
        """Train on batches drawn with replacement, each shifted by up to a pixel, with smoothed labels."""
        generator = torch.Generator().manual_seed(_SEED)
        optimizer = torch.optim.AdamW(self._network.parameters(), lr=_LR, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, steps, pct_start=_WARM_UP)
        self._network.train()
        for _ in range(steps):
            chosen = torch.randint(len(real.labels), (_BATCH,), generator=generator)
            down, right = torch.randint(-1, 2, (2,), generator=generator).tolist()
            chosen = chosen.to(real.labels.device)
            x = to_model_range(real.images[chosen], self._image_size).roll((down, right), (2, 3))  # (B, 1, S, S)
            loss = nnf.cross_entropy(self._network(x), real.labels[chosen], label_smoothing=_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        self._network.eval()


def _build_body(image_size: int) -> nn.Sequential:
    """Return three convolutions that halve the image, and the layer of features: (B, 1, S, S) to (B, D)."""
    widths = [1, _WIDTH, 2 * _WIDTH, 4 * _WIDTH]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        image_size = -(-image_size // 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * image_size**2, FEATURES), nn.ReLU())
