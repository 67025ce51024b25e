"""Labelled images in memory as uint8, and the way between their pixels and the model's range.

Letters: N images of a set, B of a batch, H and W as stored, S the side that the model sees.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf

_DIGESTED = 10_000  # images
_DEVICE_SHARE = 0.5  # of a device's free memory that the images may take; the rest is the model's


class LabelledImages(NamedTuple):
    """Images (N, 1, H, W) uint8, upright, bright strokes on black; labels (N,) int64 from 0 to classes - 1."""

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> LabelledImages:
        """Return the set on a device, whole, if it takes at most half of what is free there; else where it is."""
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf
        if self.nbytes > free * _DEVICE_SHARE:
            return self
        return LabelledImages(self.images.to(device), self.labels.to(device))

    def take(self, indices: Tensor, device: torch.device) -> LabelledImages:
        """Return the images of ``indices`` (B,), which lie beside the set, on the device."""
        images, labels = self.images[indices], self.labels[indices]
        return LabelledImages(images.to(device, non_blocking=True), labels.to(device, non_blocking=True))

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the set takes: EMNIST's largest split 0.64 GB."""
        return self.images.nbytes + self.labels.nbytes


class Dataset(NamedTuple):
    """A data set: ``train`` for the model and the classifier, ``test`` held out to measure the classifier."""

    name: str
    train: LabelledImages
    test: LabelledImages
    class_names: tuple[str, ...]  # by label


def describe_dataset(dataset: Dataset, source: str) -> dict[str, Any]:
    """Return what MLflow shows of a data set; the digest is of all labels and of at most 10,000 images."""
    images, labels = dataset.train
    sampled = images[:: -(-len(images) // _DIGESTED)]
    digest = hashlib.sha256(labels.numpy().tobytes() + sampled.contiguous().numpy().tobytes()).hexdigest()
    sizes = {"train_images": len(labels), "test_images": len(dataset.test.labels), "classes": len(dataset.class_names)}
    return {"name": dataset.name, "digest": digest[:16], "source": source, **sizes}


def to_model_range(images: Tensor, image_size: int) -> Tensor:
    """Return uint8 images (B, 1, H, W) as float (B, 1, S, S) in [-1, 1].

    Smaller images are framed in black, which keeps every pixel as it was; larger ones are shrunk. Done for each batch
    on its device, since the framed and floating set would take five times the memory.
    """
    x = images.float() / 127.5 - 1
    height, width = x.shape[-2:]
    if height > image_size or width > image_size:
        return nnf.interpolate(x, (image_size, image_size), mode="bilinear", antialias=True)
    left, top = (image_size - width) // 2, (image_size - height) // 2
    return nnf.pad(x, (left, image_size - width - left, top, image_size - height - top), value=-1.0)


def to_pixels(x: Tensor) -> Tensor:
    """Return images in [-1, 1], any shape, as uint8 of the same shape; what lies outside is cut off."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
