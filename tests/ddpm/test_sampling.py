"""Drawing samples, and laying them out for people."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mlflow_ddpm.ddpm.config.config import Config, from_options
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.sampling import draw_grid, draw_samples, sample_grid
from mlflow_ddpm.ddpm.training.trainer import build_model

torch.set_num_threads(1)


def tiny(**values: object) -> tuple[UNet, Config]:
    """A small model whose output depends on all inputs, and its settings."""
    chosen = {"base_channels": 8, "channel_mults": (1,), "image_size": 8, "sample_steps": 3, "timesteps": 20}
    config = from_options(chosen | values).resolve()
    model = build_model(config, 10)
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.1)
    return model.eval(), config


def seeded() -> torch.Generator:
    """Always the same stream."""
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_one_image_a_label_the_same_from_the_same_seed(sampler: str) -> None:
    """As uint8 at the model's size, beyond the size of one portion too."""
    model, config = tiny(sampler=sampler)
    labels = torch.arange(300) % 10
    first, again = (draw_samples(model, config, labels, guidance_scale=2, generator=seeded()) for _ in range(2))

    assert (first.dtype, tuple(first.shape)) == (torch.uint8, (300, 1, 8, 8))
    assert torch.equal(first, again)
    assert len(first.flatten(1).unique(dim=0)) == 300


def test_samples_that_share_their_noise_differ_by_class_alone() -> None:
    """With ``noises`` = 2 images 0 and 2 start alike: same class, same image; other class, another."""
    model, config = tiny()
    images = draw_samples(model, config, torch.tensor([1, 1, 1, 2]), guidance_scale=2, generator=seeded(), noises=2)

    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(images[1], images[3])


@pytest.mark.parametrize(("classes", "per_class", "size"), [(10, 10, 16), (10, 10, 32), (26, 8, 32), (62, 5, 32)])
def test_a_grid_shows_every_sample_enlarged_and_every_class_named(classes: int, per_class: int, size: int) -> None:
    """Near square, and of a size that a browser shows whole."""
    images = np.zeros((classes, per_class, size, size), dtype=np.uint8)
    images[-1, -1] = 255
    grid = draw_grid(images, [chr(48 + i) for i in range(classes)])
    white = int((grid == 255).sum())

    assert grid.dtype == np.dtype(np.uint8)
    assert grid.ndim == 2
    assert 0.6 < grid.shape[1] / grid.shape[0] < 1.7
    assert 400 < grid.shape[1] <= 1000
    assert white % (size * size) == 0
    assert white > 0


def test_a_grid_holds_each_sample_pixel_for_pixel() -> None:
    """Every grey value of a sample appears in it as often as the whole enlargement makes it."""
    images = np.arange(1, 101, dtype=np.uint8).reshape(10, 10, 1, 1).repeat(16, 2).repeat(16, 3)
    images[images == 48] = 101  # the grey of the lines
    grid = draw_grid(images, [""] * 10)
    counts = {int(v): int(np.sum(grid == v)) for v in np.unique(images)}
    (count,) = set(counts.values())

    assert count % (16 * 16) == 0
    assert int((count / 256) ** 0.5) ** 2 * 256 == count


def test_the_grid_of_a_model_is_the_same_whenever_it_is_drawn() -> None:
    """Its noise depends on the run's seed alone, so that grids of two epochs may be compared."""
    model, config = tiny()
    names = [str(i) for i in range(10)]
    other = from_options(
        {"base_channels": 8, "channel_mults": (1,), "image_size": 8, "sample_steps": 3, "seed": 1, "timesteps": 20}
    )

    assert np.array_equal(sample_grid(model, config, names), sample_grid(model, config, names))
    assert not np.array_equal(sample_grid(model, config, names), sample_grid(model, other.resolve(), names))
