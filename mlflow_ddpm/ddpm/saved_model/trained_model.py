"""A trained model and the images it draws.

Letters: K classes asked for, n images of each, N = K n, S the side of an image in pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.sampling import draw_samples
from mlflow_ddpm.ddpm.saved_model.model_files import sampling_settings

_SEEDS = 2**63


class TrainedModel:
    """A class-conditional diffusion model with its averaged weights; made by :func:`mlflow_ddpm.load_model`.

    ``unet`` is in eval mode, without gradients; ``description`` is ``config.json`` as read; ``class_names`` are the
    classes that can be asked for, by label.
    """

    def __init__(self, unet: UNet, description: Mapping[str, Any]) -> None:
        """Take a built U-Net and the description it came with; raises as :func:`sampling_settings`."""
        self.unet, self.description = unet, description
        self.class_names: tuple[str, ...] = tuple(description["class_names"])
        self._config = sampling_settings(description)

    def sample(
        self,
        classes: Sequence[object] | None = None,
        *,
        per_class: int = 1,
        guidance_scale: float | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> NDArray[np.uint8]:
        """Return images (N, S, S), uint8, bright on black, class by class; the same seed draws the same images.

        Args:
            classes: names of classes, each as often as wanted, such as ``[3, 1, 4]`` or ``["A", "b"]``; default all.
            per_class: images of each.
            guidance_scale: 1 draws plainly, more makes images plainer and less varied; default: as the run's grids.
            steps: passes through the U-Net (two each under guidance); default: as the run's grids.
            seed: from 0 to 2**63 - 1. The same seed gives the same bytes on the same machine and version of torch.

        Raises:
            UsageError: there is no such class, or a number is out of range.
        """
        names = self.class_names if classes is None else [str(name) for name in classes]
        labels = torch.tensor(self._labels(names)).repeat_interleave(_checked("per_class", per_class, 1, 2**31))  # (N,)
        changed = {"steps": steps, "guidance_scale": guidance_scale}
        config = sampling_settings(self.description, **{k: v for k, v in changed.items() if v is not None})
        images = draw_samples(
            self.unet,
            config,
            labels,
            guidance_scale=config.sample.guidance_scale,
            generator=torch.Generator().manual_seed(_checked("seed", seed, 0, _SEEDS)),
        )
        drawn: NDArray[np.uint8] = images[:, 0].numpy()
        return drawn

    def _labels(self, names: Sequence[str]) -> list[int]:
        unknown = sorted(set(names) - set(self.class_names))
        if unknown or not names:
            what = f"no class {', '.join(unknown)}" if unknown else "no class was asked for"
            raise UsageError(f"{what}; the model knows {', '.join(self.class_names)}")
        return [self.class_names.index(name) for name in names]


def _checked(name: str, value: int, least: int, below: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < below:
        raise UsageError(f"{name} must be a whole number >= {least} and < {below}, got {value!r}")
    return value
