"""How much memory a training will take, before it takes it.

What is counted: weights, gradients, AdamW's two moments, the weight average, the images, and the tensors that autograd
keeps for the backward pass of an image, which are found by running two. What is not, the kernels' own working space, is
taken from measurements on a CPU: 100 MiB and an eighth of the activations. ``tests/ddpm/test_dry_run.py`` compares the
whole with the peak of real steps.
"""

import contextlib
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mlflow_ddpm.ddpm.config.config import Config
from mlflow_ddpm.ddpm.model import diffusion
from mlflow_ddpm.ddpm.model.unet import UNet
from mlflow_ddpm.ddpm.training.trainer import build_model, uses_bf16

_MOMENTS = 2  # that AdamW keeps of every gradient
_KERNELS = 100 * 2**20
_PROBED = 2  # images; one alone would count what does not grow with the batch


class Memory(NamedTuple):
    """Bytes of one process."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int  # of this process's share of a batch, kept for the backward pass
    images: int
    working_space: int  # of kernels and allocators, by experience

    @property
    def total(self) -> int:
        """Bytes that training adds to a process."""
        return sum(self)

    @property
    def state(self) -> int:
        """Bytes of a checkpoint, but for its headers."""
        return self.weights + self.optimizer + self.average


def estimate_memory(config: Config, classes: int, image_bytes: int, *, processes: int, device: torch.device) -> Memory:
    """Return what one of several processes needs for a resolved configuration.

    Runs two images through the model on the CPU, at the precision that ``device`` would have.
    """
    with torch.random.fork_rng(devices=[]):
        model = build_model(config, classes)
        weights = sum(p.nbytes for p in model.parameters())
        with torch.autocast("cpu", torch.bfloat16, enabled=uses_bf16(config.train.precision, device)):
            per_image = _activations(model, config) / _PROBED
    share = -(-config.train.batch_size // processes)
    activations = int(per_image * share)
    working_space = _KERNELS + activations // 8
    return Memory(weights, weights, _MOMENTS * weights, weights, activations, image_bytes, working_space)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device; a huge number where the system does not report them."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    return sys.maxsize


def _activations(model: UNet, config: Config) -> float:
    """Return the bytes that autograd keeps of a forward pass, each storage once, the weights themselves left out."""
    side = config.data.image_size
    kept = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    x = torch.zeros(_PROBED, 1, side, side)
    labels = torch.zeros(_PROBED, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = diffusion.loss_per_image(
            lambda x_t, timestep: model(x_t, timestep, labels),
            x,
            torch.randn_like(x),
            labels,
            alpha_bar=diffusion.cosine_alpha_bar(config.diffusion.timesteps),
            prediction=config.diffusion.prediction,
        )
        total = sum(kept.values())  # while the graph lives: no storage has made way for another
        del loss
    return total
