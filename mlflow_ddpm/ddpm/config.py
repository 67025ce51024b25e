"""The settings of a training run: names, defaults, ranges and help, each spelt once.

The command line's options, the MLproject's parameters and the run's logged parameters are derived from the fields
here. Nothing heavy is imported, since ``--help`` comes from this module. A field that is ``None`` ("auto" on the
command line) takes the data set's value in :meth:`Config.resolve`, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar

from mlflow_ddpm.ddpm.option import AUTO_INT, AUTO_MULTS, FLOAT, INT, TEXT, CheckedOptions, Option, option
from mlflow_ddpm.errors import ConfigError

__all__ = [
    "DATA_NAMES",
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "ModelConfig",
    "OptimConfig",
    "Option",
    "SampleConfig",
    "TrainConfig",
    "from_options",
    "options",
]

EMNIST_SPLITS = ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")
DATA_NAMES = ("digits", *(f"emnist-{split}" for split in EMNIST_SPLITS))

# What "auto" means, for the embedded digits and for every EMNIST split. The sizes suit a CPU: a 2x2-patch stem makes
# the U-Net see 8x8 (digits, 8x8 images enlarged to 16x16) and 16x16 (EMNIST, 28x28 images padded to 32x32). EMNIST's
# smaller batch makes more steps of the same images: in few epochs that draws more whole strokes than 64 does. A second
# thread makes the small model's steps 1.3 times as fast on an idle machine, and 5 to 20 times as slow on a busy one,
# where OpenMP's threads spin at every barrier: measured, 85 to 130 ms a step with one, 65 to 2,800 ms with two.
_BY_DATA: dict[str, dict[str, dict[str, Any]]] = {
    "digits": {
        "data": {"image_size": 16},
        "model": {"channel_mults": (1, 2)},
        "train": {"epochs": 20, "batch_size": 64, "threads": 1},
    },
    "emnist": {
        "data": {"image_size": 32},
        "model": {"channel_mults": (1, 2, 2)},
        "train": {"epochs": 6, "batch_size": 32, "threads": 0},
    },
}


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
        "--data-dir", TEXT, "data", "folder with the official EMNIST *.gz and mapping files; digits needs none"
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
        "--base-channels", INT, 32, "channels of the U-Net's first level, a multiple of 8", least=8
    )
    channel_mults: tuple[int, ...] | None = option(
        "--channel-mults",
        AUTO_MULTS,
        None,
        "channels of each level as multiples of the first, by commas; auto: 1,2 for digits, 1,2,2 for EMNIST",
    )
    blocks: int = option("--blocks", INT, 1, "residual blocks a level", least=1)
    patch_size: int = option(
        "--patch-size", INT, 2, "side in pixels of the patches that the stem folds into channels; 1: none", least=1
    )
    attention_size: int = option(
        "--attention-size", INT, 8, "side in features of the maps that get self-attention; 0: none", least=0
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

    lr: float = option("--lr", FLOAT, 2e-3, "learning rate after the warm-up", above=0)
    warmup_steps: int = option(
        "--warmup-steps", INT, 50, "batches of linear warm-up; a cosine to zero follows", least=0
    )
    beta1: float = option("--beta1", FLOAT, 0.9, "AdamW's decay of the gradient's mean", least=0, below=1)
    beta2: float = option("--beta2", FLOAT, 0.99, "AdamW's decay of the gradient's square", least=0, below=1)
    weight_decay: float = option("--weight-decay", FLOAT, 0.01, "AdamW's weight decay", least=0)
    grad_clip: float = option(
        "--grad-clip", FLOAT, 1.0, "largest global gradient norm, longer ones are scaled; 0: no clipping", least=0
    )
    ema_decay: float = option(
        "--ema-decay",
        FLOAT,
        0.99,
        "largest decay per batch of the weights' moving average, reached as (1+s)/(10+s)",
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
        20,
        "samples a class that a classifier judges at the end, fewer where there are many classes; 0: none",
        least=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(CheckedOptions):
    """How long, in what portions, where, and from which seed."""

    GROUP: ClassVar[str] = "train"

    epochs: int | None = option(
        "--epochs", AUTO_INT, None, "passes over the training images; auto: 20 for digits, 6 for EMNIST", least=1
    )
    batch_size: int | None = option(
        "--batch-size",
        AUTO_INT,
        None,
        "images a batch, over all processes together; auto: 64 for digits, 32 for EMNIST",
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of a run. ``dataclasses.asdict`` gives the nested mapping behind names such as ``optim.lr``."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def resolve(self) -> Config:
        """Return the settings with every ``None`` replaced by the data set's value, and checked against each other.

        Raises:
            ConfigError: two settings do not fit together.
        """
        preset = _BY_DATA["digits" if self.data.name == "digits" else "emnist"]
        groups = {}
        for group, values in preset.items():
            chosen = getattr(self, group)
            groups[group] = replace(chosen, **{k: v for k, v in values.items() if getattr(chosen, k) is None})
        resolved = replace(self, **groups)
        _check_together(resolved)
        return resolved

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return the settings as nested plain values, group by group."""
        return asdict(self)


def _check_together(config: Config) -> None:
    """Check what no field can know alone; ``config`` is resolved."""
    image_size, mults = config.data.image_size or 0, config.model.channel_mults or ()
    multiple = config.model.patch_size * 2 ** (len(mults) - 1)
    if image_size % multiple:
        raise ConfigError(
            f"data.image_size must be a multiple of {multiple} (model.patch_size {config.model.patch_size}, halved "
            f"{len(mults) - 1} times by model.channel_mults), got {image_size}"
        )
    if config.model.base_channels % 8:
        raise ConfigError(f"model.base_channels must be a multiple of 8, got {config.model.base_channels}")
    if config.sample.steps > config.diffusion.timesteps:
        raise ConfigError(
            f"sample.steps must be <= diffusion.timesteps ({config.diffusion.timesteps}), got {config.sample.steps}"
        )


_GROUPS = (DataConfig, ModelConfig, DiffusionConfig, OptimConfig, SampleConfig, TrainConfig)


def options() -> list[Option]:
    """Return every setting, in the order of the groups and their fields. Flags are unique over all groups."""
    return [
        Option(a["flag"], group.GROUP, f.name, a["kind"].parse, f.default, a["help"], a["choices"])
        for group in _GROUPS
        for f in fields(group)
        for a in [f.metadata]
    ]


def from_options(values: Mapping[str, Any]) -> Config:
    """Return the settings of parsed values, keyed by :attr:`Option.dest`; what is missing keeps its default.

    Raises:
        ConfigError: a value is out of range, or a name is no option.
    """
    known = {o.dest: o for o in options()}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(f"no such setting: {', '.join(unknown)}; there are {', '.join(known)}")
    chosen: dict[str, dict[str, Any]] = {group.GROUP: {} for group in _GROUPS}
    for dest, value in values.items():
        chosen[known[dest].group][known[dest].field] = value
    groups: dict[str, Any] = {group.GROUP: group(**chosen[group.GROUP]) for group in _GROUPS}
    return Config(**groups)
