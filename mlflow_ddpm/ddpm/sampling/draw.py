"""Images drawn from a trained model: of given classes, from given seeds, in bounded portions."""

from __future__ import annotations

import torch
from torch import Tensor

from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.data.images import to_pixels
from mlflow_ddpm.ddpm.model import diffusion
from mlflow_ddpm.ddpm.model.unet import UNet

_PORTION = 256  # images at a time; guidance doubles it


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
    drawn = []
    for classes, x_t in zip(labels.to(device).split(_PORTION), start.to(device).split(_PORTION), strict=True):
        predict = diffusion.guide(model, classes, null_class=model.null_class, guidance_scale=guidance_scale)
        drawn.append(to_pixels(_denoise(predict, x_t, config, generator)).cpu())
    return torch.cat(drawn)


def _denoise(predict: diffusion.Predict, x_t: Tensor, config: Config, generator: torch.Generator) -> Tensor:
    """Return images (B, 1, S, S) in [-1, 1] from noise, by the sampler that the settings name."""

    def draw() -> Tensor:
        return torch.randn(x_t.shape, generator=generator).to(x_t.device)

    return diffusion.sample(
        predict,
        x_t,
        alpha_bar=diffusion.cosine_alpha_bar(config.diffusion.timesteps).to(x_t.device),
        prediction=config.diffusion.prediction,
        steps=config.sample.steps,
        draw=draw if config.sample.sampler == "ancestral" else None,
    )
