"""Named sizes of a training, and what "auto" stands for in each: for the embedded digits, and for EMNIST.

Nothing heavy is imported, since ``--help`` comes from here. ``laptop`` is what the tests and the README's figures use;
``gpu`` and ``large`` are places to start from (Ho et al. 2020 trained 36 million parameters on 32x32 pixels, at a rate
of 2e-4 and batches of 128).
"""

from typing import Any

PRESETS = ("laptop", "gpu", "large")
Groups = dict[str, dict[str, Any]]

# The model sees digits, 8x8, enlarged to 16x16, and EMNIST, 28x28, framed to 32x32. A second thread makes the small
# model's steps 1.3 times as fast on an idle machine, and 5 to 20 times as slow on a busy one, where OpenMP's threads
# spin at every barrier: measured, 85 to 130 ms a step with one, 65 to 2,800 ms with two.
_BY_DATA: dict[str, Groups] = {
    "digits": {"data": {"image_size": 16}, "model": {"channel_mults": (1, 2)}, "train": {"threads": 1}},
    "emnist": {"data": {"image_size": 32}, "model": {"channel_mults": (1, 2, 2)}, "train": {"threads": 0}},
}
# A 2x2-patch stem halves the time of a step on a CPU; a GPU is kept busy by single pixels. A weight average over more
# steps, and a longer warm-up, go with more steps.
_BY_PRESET: dict[str, Groups] = {
    "laptop": {
        "model": {"base_channels": 32, "blocks": 1, "patch_size": 2, "attention_size": 8},
        "optim": {"lr": 2e-3, "warmup_steps": 50, "ema_decay": 0.99},
    },
    "gpu": {
        "model": {"base_channels": 96, "blocks": 2, "patch_size": 1, "attention_size": 16},
        "optim": {"lr": 5e-4, "warmup_steps": 500, "ema_decay": 0.999},
    },
    "large": {
        "model": {"base_channels": 192, "blocks": 3, "patch_size": 1, "attention_size": 16},
        "optim": {"lr": 2e-4, "warmup_steps": 2000, "ema_decay": 0.9999},
    },
}
# EMNIST's smaller batch on a laptop makes more steps of the same images: in few epochs that draws more whole strokes
# than 64 does.
_BY_BOTH: dict[tuple[str, str], Groups] = {
    ("laptop", "digits"): {"train": {"epochs": 20, "batch_size": 64}},
    ("laptop", "emnist"): {"train": {"epochs": 6, "batch_size": 32}},
    ("gpu", "digits"): {"train": {"epochs": 200, "batch_size": 256}},
    ("gpu", "emnist"): {"train": {"epochs": 40, "batch_size": 256}},
    ("large", "digits"): {"model": {"channel_mults": (1, 2, 2)}, "train": {"epochs": 400, "batch_size": 512}},
    ("large", "emnist"): {"model": {"channel_mults": (1, 2, 2, 2)}, "train": {"epochs": 100, "batch_size": 512}},
}


def preset_values(preset: str, data_name: str) -> Groups:
    """Return the values of every setting that can be "auto", group by group."""
    kind = "digits" if data_name == "digits" else "emnist"
    merged: Groups = {}
    for layer in (_BY_DATA[kind], _BY_PRESET[preset], _BY_BOTH[preset, kind]):
        for group, values in layer.items():
            merged[group] = merged.get(group, {}) | values
    return merged
