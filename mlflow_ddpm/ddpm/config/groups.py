"""The groups of settings: names, defaults, ranges and help of each, spelt once. Nothing heavy is imported.

A setting of which nothing was chosen, None here and "auto" on the command line, has one value for each preset, or one
for each preset and kind of data. Annotations are those of a resolved configuration, in which no None is left. The
preset ``laptop`` is what the tests and the README's figures use; ``gpu`` and ``large`` are places to start from (Ho et
al. 2020 trained 36 million parameters on 32x32 pixels, at a rate of 2e-4 and batches of 128).
"""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_ddpm.ddpm.config.fields import PRESETS, CheckedSettings, setting

EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
DATA_NAMES = ("digits", *(f"emnist-{split}" for split in EMNIST_SPLITS))


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(CheckedSettings):
    """Which images, and at what size the model sees them."""

    name: str = setting(
        "data set: digits (scikit-learn's, 1,797 images), or an EMNIST split that is read from --data-dir: "
        + ", ".join(DATA_NAMES[1:]),
        "digits",
        flag="--data",
        choices=DATA_NAMES,
        metavar="NAME",
    )
    dir: str = setting(
        "EMNIST's gzip.zip, or a folder with it or its files, gzip'd or not; digits needs none",
        "data",
        flag="--data-dir",
        metavar="DIR",
    )
    balance: str = setting(
        "what an epoch draws: every image once (none), or as many images with every class equally often (classes)",
        "none",
        choices=("none", "classes"),
    )
    image_size: int = setting(  # 8x8 digits are enlarged, EMNIST's 28x28 are framed
        "height and width in pixels that the model sees; auto: 16 for digits, 32 for EMNIST",
        auto={"digits": (16, 16, 16), "emnist": (32, 32, 32)},
        bounds=">= 8 and <= 256",
        metavar="PIXELS",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig(CheckedSettings):
    """The shape of the U-Net."""

    base_channels: int = setting(
        "channels of the U-Net's first level, a multiple of 8; auto: 32, 96 or 192",
        auto=(32, 96, 192),
        bounds=">= 8",
        metavar="CHANNELS",
    )
    channel_mults: tuple[int, ...] = setting(
        "channels of each level as multiples of the first, by commas; auto: 1,2 for digits, 1,2,2 for EMNIST, and "
        "1,2,2 or 1,2,2,2 if large",
        auto={"digits": ((1, 2), (1, 2), (1, 2, 2)), "emnist": ((1, 2, 2), (1, 2, 2), (1, 2, 2, 2))},
    )
    blocks: int = setting("residual blocks a level; auto: 1, 2 or 3", auto=(1, 2, 3), bounds=">= 1")
    patch_size: int = setting(  # 2x2 halve the time of a step on a CPU; a GPU is kept busy by single pixels
        "side in pixels of the patches that the stem folds into channels, 1: none; auto: 2, 1 or 1",
        auto=(2, 1, 1),
        bounds=">= 1",
        metavar="PIXELS",
    )
    attention_size: int = setting(
        "side of the feature maps that get self-attention, 0: none; auto: 8, 16 or 16",
        auto=(8, 16, 16),
        bounds=">= 0",
        metavar="FEATURES",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionConfig(CheckedSettings):
    """The noising process and what the model learns to predict of it."""

    timesteps: int = setting("steps of the noising process", 1000, bounds=">= 2 and <= 100000", metavar="STEPS")
    prediction: str = setting("what the model predicts: velocity (v) or noise (eps)", "v", choices=("v", "eps"))
    class_dropout: float = setting(
        "share of training images whose class is hidden, for classifier-free guidance",
        0.1,
        bounds=">= 0 and < 1",
        metavar="SHARE",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig(CheckedSettings):
    """AdamW, its learning rate over the run, clipping, and the average of the weights."""

    # A longer warm-up, and a weight average over more steps, go with more steps.
    lr: float = setting(
        "learning rate after the warm-up; auto: 0.002, 0.0005 or 0.0002",
        auto=(2e-3, 5e-4, 2e-4),
        bounds="> 0",
        metavar="RATE",
    )
    warmup_steps: int = setting(
        "batches of linear warm-up, a cosine to zero follows; auto: 50, 500 or 2000",
        auto=(50, 500, 2000),
        bounds=">= 0",
        metavar="BATCHES",
    )
    beta1: float = setting("AdamW's decay of the gradient's mean", 0.9, bounds=">= 0 and < 1", metavar="DECAY")
    beta2: float = setting("AdamW's decay of the gradient's square", 0.99, bounds=">= 0 and < 1", metavar="DECAY")
    weight_decay: float = setting("AdamW's weight decay", 0.01, bounds=">= 0", metavar="DECAY")
    grad_clip: float = setting(
        "largest global gradient norm, longer ones are scaled; 0: no clipping", 1.0, bounds=">= 0", metavar="NORM"
    )
    ema_decay: float = setting(
        "decay of the weights' average; batch s has (1+s)/(10+s) until that is more; auto: 0.99, 0.999 or 0.9999",
        auto=(0.99, 0.999, 0.9999),
        bounds=">= 0 and < 1",
        metavar="DECAY",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig(CheckedSettings):
    """Sample grids while training, and the evaluation of samples."""

    every: int = setting(
        "epochs between sample grids, besides those of the first and the last; 0: none",
        4,
        flag="--sample-every",
        bounds=">= 0",
        metavar="EPOCHS",
    )
    sampler: str = setting("how samples are drawn", "ddim", choices=("ddim", "ancestral"))
    steps: int = setting(
        "denoising steps of a sample, at most --timesteps", 25, flag="--sample-steps", bounds=">= 1", metavar="STEPS"
    )
    guidance_scale: float = setting(
        "classifier-free guidance of the grids; 1: none", 2.0, bounds=">= 0", metavar="SCALE"
    )
    eval_per_class: int = setting(
        "samples of each class that a classifier evaluates, a third of the class's images at most; 0: none",
        30,
        bounds=">= 0",
        metavar="IMAGES",
    )
    eval_every: int = setting(
        "epochs between evaluations of samples, besides that after the last epoch; 0: the last alone",
        0,
        bounds=">= 0",
        metavar="EPOCHS",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(CheckedSettings):
    """How long, in what portions, where, and from which seed."""

    preset: str = setting(
        "what every setting that is auto stands for: a size for a CPU, for one GPU, or for many",
        "laptop",
        choices=PRESETS,
    )
    epochs: int = setting(
        "passes over the training images; auto: 20, 200 or 400 for digits, 6, 40 or 100 for EMNIST",
        auto={"digits": (20, 200, 400), "emnist": (6, 40, 100)},
        bounds=">= 1 and <= 1000000",
        metavar="EPOCHS",
    )
    # EMNIST's smaller batch on a laptop makes more steps of the same images: in few epochs that draws more whole
    # strokes than 64 does.
    batch_size: int = setting(
        "images a batch, over all processes together; auto: 64, 256 or 512 for digits, 32, 256 or 512 for EMNIST",
        auto={"digits": (64, 256, 512), "emnist": (32, 256, 512)},
        bounds=">= 1",
        metavar="IMAGES",
    )
    seed: int = setting("seed of weights, batches, noise and samples", 0, bounds=">= 0 and < 2147483648")
    # A second thread makes the small model's steps 1.3 times as fast on an idle machine, and 5 to 20 times as slow on a
    # busy one, where OpenMP's threads spin at every barrier: measured, 85 to 130 ms a step with one, 65 to 2,800 ms
    # with two.
    threads: int = setting(
        "CPU threads of a process; 0: torch's own choice; auto: 1 for digits, 0 for EMNIST",
        auto={"digits": (1, 1, 1), "emnist": (0, 0, 0)},
        bounds=">= 0 and <= 1024",
        metavar="THREADS",
    )
    device: str = setting("where to train; auto: CUDA where there is one", "auto", choices=("auto", "cpu", "cuda"))
    precision: str = setting(
        "of matrix products and convolutions while training; auto: bf16 on a GPU that has units for it, else fp32",
        "auto",
        choices=("auto", "fp32", "bf16"),
    )
    compile: str = setting(
        "run the U-Net through torch.compile, which takes a minute or more at the first batch",
        "no",
        choices=("no", "yes"),
    )
