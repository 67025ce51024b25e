"""The groups of settings: names, defaults, ranges and help of each, spelt once. Nothing heavy is imported.

A default of None is "auto": :mod:`mlflow_ddpm.ddpm.config.presets` has its values for laptop, gpu and large.
Annotations are those of a resolved configuration, in which no None is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlflow_ddpm.ddpm.config.fields import AUTO_FLOAT, AUTO_INT, AUTO_MULTS, FLOAT, INT, TEXT, CheckedOptions, option
from mlflow_ddpm.ddpm.config.presets import PRESETS

__all__ = [
    "DATA_NAMES",
    "DataConfig",
    "DiffusionConfig",
    "ModelConfig",
    "OptimConfig",
    "SampleConfig",
    "TrainConfig",
]

EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
DATA_NAMES = ("digits", *(f"emnist-{split}" for split in EMNIST_SPLITS))


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(CheckedOptions):
    """Which images, and at what size the model sees them."""

    GROUP: ClassVar[str] = "data"

    name: str = option(
        "--data",
        TEXT,
        "digits",
        "data set: scikit-learn's 1,797 handwritten digits, or an EMNIST split read from --data-dir",
        choices=DATA_NAMES,
    )
    dir: str = option(
        "--data-dir",
        TEXT,
        "data",
        "EMNIST's gzip.zip, or a folder with it or its files, gzip'd or not; digits needs none",
    )
    balance: str = option(
        "--balance",
        TEXT,
        "none",
        "what an epoch draws: every image once (none), or as many images with every class equally often (classes)",
        choices=("none", "classes"),
    )
    image_size: int | None = option(
        "--image-size",
        AUTO_INT,
        None,
        "height and width in pixels that the model sees; auto: 16 for digits, 32 for EMNIST",
        least=8,
        most=256,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(CheckedOptions):
    """The shape of the U-Net."""

    GROUP: ClassVar[str] = "model"

    base_channels: int = option(
        "--base-channels",
        AUTO_INT,
        None,
        "channels of the U-Net's first level, a multiple of 8; auto: 32, 96 or 192",
        least=8,
    )
    channel_mults: tuple[int, ...] | None = option(
        "--channel-mults",
        AUTO_MULTS,
        None,
        "channels of each level as multiples of the first, by commas; auto: 1,2 for digits, 1,2,2 for EMNIST, and "
        "1,2,2 or 1,2,2,2 if large",
    )
    blocks: int = option("--blocks", AUTO_INT, None, "residual blocks a level; auto: 1, 2 or 3", least=1)
    patch_size: int = option(
        "--patch-size",
        AUTO_INT,
        None,
        "side in pixels of the patches that the stem folds into channels, 1: none; auto: 2, 1 or 1",
        least=1,
    )
    attention_size: int = option(
        "--attention-size",
        AUTO_INT,
        None,
        "side in features of the maps that get self-attention, 0: none; auto: 8, 16 or 16",
        least=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionConfig(CheckedOptions):
    """The noising process and what the model learns to predict of it."""

    GROUP: ClassVar[str] = "diffusion"

    timesteps: int = option("--timesteps", INT, 1000, "steps of the noising process", least=2)
    prediction: str = option(
        "--prediction", TEXT, "v", "what the model predicts: velocity (v) or noise (eps)", choices=("v", "eps")
    )
    class_dropout: float = option(
        "--class-dropout",
        FLOAT,
        0.1,
        "share of training images whose class is hidden, for classifier-free guidance",
        least=0,
        below=1,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig(CheckedOptions):
    """AdamW, its learning rate over the run, clipping, and the average of the weights."""

    GROUP: ClassVar[str] = "optim"

    lr: float = option(
        "--lr", AUTO_FLOAT, None, "learning rate after the warm-up; auto: 0.002, 0.0005 or 0.0002", above=0
    )
    warmup_steps: int = option(
        "--warmup-steps",
        AUTO_INT,
        None,
        "batches of linear warm-up, a cosine to zero follows; auto: 50, 500 or 2000",
        least=0,
    )
    beta1: float = option("--beta1", FLOAT, 0.9, "AdamW's decay of the gradient's mean", least=0, below=1)
    beta2: float = option("--beta2", FLOAT, 0.99, "AdamW's decay of the gradient's square", least=0, below=1)
    weight_decay: float = option("--weight-decay", FLOAT, 0.01, "AdamW's weight decay", least=0)
    grad_clip: float = option(
        "--grad-clip", FLOAT, 1.0, "largest global gradient norm, longer ones are scaled; 0: no clipping", least=0
    )
    ema_decay: float = option(
        "--ema-decay",
        AUTO_FLOAT,
        None,
        "largest decay per batch of the weights' moving average, reached as (1+s)/(10+s); auto: 0.99, 0.999 or 0.9999",
        least=0,
        below=1,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig(CheckedOptions):
    """Sample grids while training, and the judgement of samples after it."""

    GROUP: ClassVar[str] = "sample"

    every: int = option(
        "--sample-every",
        INT,
        4,
        "epochs between sample grids, besides those of the first and the last; 0: none",
        least=0,
    )
    sampler: str = option("--sampler", TEXT, "ddim", "how samples are drawn", choices=("ddim", "ancestral"))
    steps: int = option("--sample-steps", INT, 25, "denoising steps of a sample, at most --timesteps", least=1)
    guidance_scale: float = option(
        "--guidance-scale", FLOAT, 2.0, "classifier-free guidance of the grids; 1: none", least=0
    )
    judge_per_class: int = option(
        "--judge-per-class",
        INT,
        30,
        "samples of each class that a classifier judges, a third of the class's images at most; 0: none",
        least=0,
    )
    judge_every: int = option(
        "--judge-every", INT, 0, "epochs between judgements, besides that of the last; 0: the last alone", least=0
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(CheckedOptions):
    """How long, in what portions, where, and from which seed."""

    GROUP: ClassVar[str] = "train"

    preset: str = option(
        "--preset",
        TEXT,
        "laptop",
        "what every setting that is auto stands for: a size for a CPU, for one GPU, or for many",
        choices=PRESETS,
    )
    epochs: int | None = option(
        "--epochs",
        AUTO_INT,
        None,
        "passes over the training images; auto: 20, 200 or 400 for digits, 6, 40 or 100 for EMNIST",
        least=1,
    )
    batch_size: int | None = option(
        "--batch-size",
        AUTO_INT,
        None,
        "images a batch, over all processes together; auto: 64, 256 or 512 for digits, 32, 256 or 512 for EMNIST",
        least=1,
    )
    seed: int = option("--seed", INT, 0, "seed of weights, batches, noise and samples", least=0, below=2**31)
    threads: int | None = option(
        "--threads",
        AUTO_INT,
        None,
        "CPU threads of a process; 0: torch's own choice; auto: 1 for digits, 0 for EMNIST",
        least=0,
    )
    device: str = option(
        "--device", TEXT, "auto", "where to train; auto: CUDA where there is one", choices=("auto", "cpu", "cuda")
    )
    precision: str = option(
        "--precision",
        TEXT,
        "auto",
        "of matrix products and convolutions while training; auto: bf16 on a GPU that has units for it, else fp32",
        choices=("auto", "fp32", "bf16"),
    )
    compile: str = option(
        "--compile",
        TEXT,
        "no",
        "run the U-Net through torch.compile, which takes a minute or more at the first batch",
        choices=("no", "yes"),
    )
