"""A trained model's two files: what they hold, and what comes back from them."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.pipeline import NAMES, small_model

from mlflow_ddpm import load_model
from mlflow_ddpm.core.errors import ModelError, UsageError
from mlflow_ddpm.ddpm.saved_model.model_files import save_model

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output directory with a model in it."""
    directory = tmp_path_factory.mktemp("run")
    save_model(directory, *small_model(), NAMES)
    return directory


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    """One of a test's own, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def tensors_of(path: Path) -> dict[str, Any]:
    """Return the arrays of a safetensors file, read by its specification: length, JSON header, bytes."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    body = content[8 + length :]
    assert header.pop("__metadata__") == {"format": "pt"}
    return {
        name: np.frombuffer(body[slice(*about["data_offsets"])], "<f4").reshape(about["shape"])
        for name, about in header.items()
        if about["dtype"] == "F32"
    }


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_weights_file_holds_every_parameter_under_its_name(saved: Path) -> None:
    """To the last bit, in the order of its dimensions, whatever the layout in memory was."""
    tensors = tensors_of(saved / "model/model.safetensors")
    state = small_model()[0].state_dict()

    assert set(state) == set(tensors)
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensor.numpy(), tensors[name])


def test_the_description_says_all_that_drawing_needs(saved: Path) -> None:
    """Architecture, process, sampler, class names and versions, as strict JSON."""
    told = json.loads((saved / "model/config.json").read_text(encoding="utf-8"))

    assert told["format_version"] == 1
    assert told["architecture"]["channel_mults"] == [1, 2]
    assert told["architecture"]["image_size"] == 16
    assert told["diffusion"] == {"schedule": "cosine", "timesteps": 20, "prediction": "v"}
    assert told["sample"] == {"sampler": "ddim", "steps": 3, "guidance_scale": 2.0}
    assert told["class_names"] == list(NAMES)
    assert told["trained_on"] == "digits"
    assert told["mlflow_ddpm_version"]


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    """Nothing but the two files is left, and nothing in them depends on when or where they were written."""
    paths = save_model(tmp_path, *small_model(), NAMES)

    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    for path in paths:
        assert path.read_bytes() == (saved / "model" / path.name).read_bytes()


@pytest.mark.parametrize("where", ["", "model"])
def test_a_loaded_model_predicts_what_the_trained_one_did(saved: Path, where: str) -> None:
    """From the output directory, or from a folder with the two files; in eval mode and without gradients."""
    loaded, (model, _) = load_model(saved / where), small_model()
    x_t, timestep, labels = torch.randn(2, 1, 16, 16), torch.tensor([3, 19]), torch.tensor([0, 3])

    assert torch.equal(model(x_t, timestep, labels), loaded.unet(x_t, timestep, labels))
    assert not loaded.unet.training
    assert not any(p.requires_grad for p in loaded.unet.parameters())
    assert loaded.class_names == NAMES


def test_samples_come_class_by_class_and_again_from_the_same_seed(saved: Path) -> None:
    """As uint8 images (N, S, S); another seed, class, guidance or number of steps draws others."""
    model = load_model(saved)
    images = model.sample(["b", 3], per_class=2, seed=7)

    assert (str(images.dtype), images.shape) == ("uint8", (4, 16, 16))
    assert len({image.tobytes() for image in images}) == 4
    np.testing.assert_array_equal(images, load_model(saved).sample(["b", "3"], per_class=2, seed=7))
    others = [
        model.sample(["b", 3], per_class=2, seed=8),
        model.sample(["A", 3], per_class=2, seed=7),
        model.sample(["b", 3], per_class=2, seed=7, guidance_scale=1),
        model.sample(["b", 3], per_class=2, seed=7, steps=20),
    ]
    assert not [other for other in others if np.array_equal(other, images)]
    assert model.sample().shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"classes": ["3", "B"]}, "no class B; the model knows A, b, 3"),
        ({"classes": []}, "no class was asked for; the model knows A, b, 3"),
        ({"per_class": 0}, "per_class must be a whole number >= 1"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"steps": 21}, "steps must be <= 20, got 21"),
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"guidance_scale": math.nan}, "guidance_scale must be a finite number, got nan"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(saved: Path, asked: dict[str, Any], message: str) -> None:
    """Before anything is computed."""
    with pytest.raises(UsageError, match=message):
        load_model(saved).sample(**asked)


def test_one_flipped_bit_in_the_weights_is_found(copy: Path) -> None:
    """A wrong weight would draw wrong images without a word."""
    path = copy / "model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 4
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"model\.safetensors is damaged, or belongs to another config\.json"):
        load_model(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format_version": 2, "mlflow_ddpm_version": "9.1"},
            r"has format 2.*mlflow_ddpm '9\.1' wrote it: install that",
        ),
        ({"format_version": None}, "no description of an mlflow_ddpm model"),
        ({"architecture": {"classes": 3, "image_size": 8}}, r"does not fit config\.json beside it"),
        ({"architecture": {"classes": 3, "width": 8}}, "describes no model that this version can build"),
        (
            {"architecture": {"classes": 3, "image_size": 8, "channel_mults": []}},
            "describes no model that this version can build",
        ),
        ({"diffusion": {"timesteps": 0, "prediction": "v"}}, "timesteps must be >= 2"),
        ({"sample": {"sampler": "euler"}}, "sampler must be one of ddim, ancestral"),
        ({"diffusion": {}}, "describes no model that this version can build"),
    ],
)
def test_a_description_of_another_version_or_of_no_model_is_told_in_words(
    copy: Path, changes: dict[str, Any], message: str
) -> None:
    """With the file's name in it."""
    edit(copy / "model/config.json", **changes)

    with pytest.raises(ModelError, match=message) as error:
        load_model(copy)
    assert "config.json" in str(error.value)


def test_a_cut_file_and_a_missing_one_are_told_apart(copy: Path, tmp_path: Path) -> None:
    """Damaged; half of a pair; no model at all; no directory at all."""
    description, weights = copy / "model/config.json", copy / "model/model.safetensors"
    whole = description.read_bytes()
    description.write_bytes(whole[:-20])
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        load_model(copy)
    description.write_bytes(whole)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no such file: .*model\.safetensors"):
        load_model(copy)
    description.unlink()
    with pytest.raises(ModelError, match=r"no model in copy: expected model/model\.safetensors and model/config\.json"):
        load_model(copy)
    with pytest.raises(ModelError, match=r"no such directory: .*gone; expected a run.s output directory"):
        load_model(tmp_path / "gone")
