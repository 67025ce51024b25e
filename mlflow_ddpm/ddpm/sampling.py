"""Images drawn from a trained model, and a picture of them for people: a row a class, its name before it, enlarged.

Letters: N images, K classes, n samples of each, S the side of an image that the model draws, H and W of any in pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.data.images import to_pixels
from mlflow_ddpm.ddpm.model import diffusion
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.seeds import Purpose, seeded_generator

_PORTION = 256  # images at a time; guidance doubles it
_LINE, _LINE_GREY, _NAME_GREY = 1, 48, 200
_MARGIN = 1  # black pixels around a sample, before enlarging: the embedded digits fill their frame
_WIDTH = 900  # pixels that the picture is enlarged to at most, which a browser shows unscaled
# Samples a class, and classes side by side, by number of classes: near-square pictures of some hundred samples.
_FEW, _SOME = 12, 30


@torch.no_grad()
def draw_samples(
    model: UNet, config: Config, labels: Tensor, *, guidance_scale: float, generator: torch.Generator, noises: int = 0
) -> Tensor:
    """Return one image a label, uint8 (N, 1, S, S) on the CPU, on the settings of ``config.sample``.

    The generator lives on the CPU, so that the same seed starts from the same noise on every device. With ``noises``
    the start repeats after that many images: laid out class by class, each column then shares its noise.
    """
    distinct = noises or len(labels)
    start = torch.randn(distinct, *model.image_shape, generator=generator)
    start = start[torch.arange(len(labels)) % distinct]  # (N, 1, S, S)
    device = next(model.parameters()).device
    alpha_bar = diffusion.cosine_alpha_bar(config.diffusion.timesteps).to(device)
    drawn = []
    for classes, x_t in zip(labels.to(device).split(_PORTION), start.to(device).split(_PORTION), strict=True):
        predict = diffusion.guide(model, classes, null_class=model.null_class, guidance_scale=guidance_scale)
        x_0 = diffusion.sample(
            predict,
            x_t,
            alpha_bar=alpha_bar,
            prediction=config.diffusion.prediction,
            steps=config.sample.steps,
            generator=generator if config.sample.sampler == "ancestral" else None,
        )
        drawn.append(to_pixels(x_0).cpu())
    return torch.cat(drawn)


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
    images = images.repeat(scale, axis=-2).repeat(scale, axis=-1)  # (K, n, H scale, W scale)
    images = np.pad(images, ((0, 0), (0, 0), (0, 0), (_LINE, 0)), constant_values=_LINE_GREY)  # a line at the left
    strips = [
        np.concatenate([_name_cell(name, height * scale, width * scale), *row], axis=1)
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


def _name_cell(name: str, height: int, width: int) -> NDArray[np.uint8]:
    """Return the class's name, centred, grey on black, as large as Pillow's own font is sharp."""
    from PIL import Image, ImageDraw

    cell = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(cell)
    left, top, right, bottom = pen.textbbox((0, 0), name, font_size=height / 2)
    pen.text(((width - left - right) / 2, (height - top - bottom) / 2), name, fill=_NAME_GREY, font_size=height / 2)
    return np.asarray(cell)
