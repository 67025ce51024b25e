"""A picture of samples for people: a row a class with its name before it, enlarged by a whole factor.

Letters: K classes, n samples of each, H and W of a sample in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.sampling.draw import draw_samples
from mlflow_ddpm.ddpm.seeds import Purpose, seeded_generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LINE, _LINE_GREY, _NAME_GREY = 1, 48, 200
_MARGIN = 1  # black pixels around a sample, before enlarging: the embedded digits fill their frame
_WIDTH = 900  # pixels that the picture is enlarged to at most, which a browser shows unscaled
# Samples a class, and classes side by side, by number of classes: near-square pictures of some hundred samples.
_FEW, _SOME = 12, 30


def sample_grid(model: UNet, config: Config, class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Return a picture (rows, columns) of samples at ``sample.guidance_scale``, the n-th of every class from one noise.

    The noise depends on the run's seed alone, so that the grids of two epochs differ by what was learnt between them.
    """
    samples, _ = _layout(len(class_names))
    labels = torch.arange(len(class_names)).repeat_interleave(samples)  # (K n,)
    images = draw_samples(
        model,
        config,
        labels,
        guidance_scale=config.sample.guidance_scale,
        generator=seeded_generator(config.train.seed, Purpose.GRID),
        noises=samples,
    )
    return draw_grid(images[:, 0].unflatten(0, (len(class_names), samples)).numpy(), class_names)


def draw_grid(images: NDArray[np.uint8], class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Lay out images (K, n, H, W) as one picture, class by class downwards, in panels that keep it near square."""
    images = np.pad(images, ((0, 0), (0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))
    classes, samples, height, width = images.shape
    _, panels = _layout(classes)
    rows = -(-classes // panels)
    scale = max(1, _WIDTH // (panels * (samples + 1) * width))
    strips = [
        np.concatenate([_name_cell(name, height * scale, width * scale), *_framed(row, scale)], axis=1)
        for name, row in zip(class_names, images, strict=True)
    ]
    strips = [np.pad(strip, ((_LINE, 0), (0, 0)), constant_values=_LINE_GREY) for strip in strips]
    strips += [np.zeros_like(strips[0])] * (rows * panels - classes)
    columns = [np.concatenate(strips[top : top + rows]) for top in range(0, len(strips), rows)]
    return np.concatenate(columns, axis=1)


def _layout(classes: int) -> tuple[int, int]:
    """Return samples a class, and panels side by side."""
    if classes <= _FEW:
        return 10, 1
    return (8, 2) if classes <= _SOME else (5, 3)


def _framed(samples: NDArray[np.uint8], scale: int) -> list[NDArray[np.uint8]]:
    """Enlarge each sample (H, W) and give it a line at its left."""
    enlarged = samples.repeat(scale, axis=-2).repeat(scale, axis=-1)  # (n, H scale, W scale)
    return list(np.pad(enlarged, ((0, 0), (0, 0), (_LINE, 0)), constant_values=_LINE_GREY))


def _name_cell(name: str, height: int, width: int) -> NDArray[np.uint8]:
    """Return the class's name, centred, grey on black, as large as Pillow's own font is sharp."""
    from PIL import Image, ImageDraw

    cell = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(cell)
    left, top, right, bottom = pen.textbbox((0, 0), name, font_size=height / 2)
    pen.text(((width - left - right) / 2, (height - top - bottom) / 2), name, fill=_NAME_GREY, font_size=height / 2)
    return np.asarray(cell)
