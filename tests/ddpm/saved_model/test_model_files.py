"""A model's files may be a stranger's: whatever they claim, loading ends in one line, at once, in little memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.common import ROOT
from support.pipeline import NAMES, small_model

from mlflow_ddpm import load_model
from mlflow_ddpm.core.errors import ModelError
from mlflow_ddpm.ddpm.saved_model.model_files import save_model

HUGE = 10**9


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sound model."""
    directory = tmp_path_factory.mktemp("run")
    save_model(directory, *small_model(), NAMES)
    return directory / "model"


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def claim(model: Path, group: str, **changes: Any) -> None:
    """Change values of a group of config.json."""
    path = model / "config.json"
    description = json.loads(path.read_text())
    description[group] = {**description[group], **changes}
    path.write_text(json.dumps(description))


def put_weights(model: Path, content: bytes) -> None:
    """Replace the weights, and have config.json name them."""
    (model / "model.safetensors").write_bytes(content)
    claim(model, "weights", sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    "changes",
    [
        *({"base_channels": value} for value in (HUGE, 4096, -8, 0, 12, 8.0, "8", None, True, [8], 10**400)),
        *({"blocks": value} for value in (HUGE, 10**5, 0, -1, float("nan"))),
        *({"channel_mults": value} for value in ([1] * 10_000, [1, HUGE], [], [1, -1], [1.5], "12", {"0": 1}, HUGE)),
        *({"image_size": value} for value in (HUGE, 18, 0, -16, float("inf"), "auto", True)),
        *({"classes": value} for value in (HUGE, 4, 0, -1, 2.0, True)),
        *({"patch_size": value} for value in (HUGE, 0, 3)),
        {"attention_size": -1},
        *({"image_channels": value} for value in (3, True, 1.0)),
        {"device": "cuda"},
    ],
    ids=str,
)
def test_an_architecture_that_its_weights_do_not_have_is_refused(model: Path, changes: dict[str, Any]) -> None:
    """Huge, negative, of other types, or merely another one; the line has the names of config.json."""
    claim(model, "architecture", **changes)
    began = time.monotonic()

    with pytest.raises(ModelError) as error:
        load_model(model)
    assert not re.search(r"\n|data\.|model\.(?!safetensors)|or 'auto'", str(error.value))
    assert len(str(error.value)) < 500
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("group", "changes"),
    [
        *(("diffusion", {"timesteps": value}) for value in (10**12, 0, -1, "20", float("nan"), 20.0)),
        *(("diffusion", {"prediction": value}) for value in ("x0", 1, None, ["v"])),
        ("diffusion", {"schedule": "linear"}),
        *(("sample", {"steps": value}) for value in (10**9, 0, -1, float("nan"))),
        *(("sample", {"guidance_scale": value}) for value in (float("nan"), float("inf"), -1, "2", 10**400)),
        ("sample", {"sampler": "euler"}),
        ("sample", {"colour": 1}),
        ("weights", {"sha256": 5}),
    ],
    ids=str,
)
def test_a_process_or_a_sampler_out_of_range_is_refused(model: Path, group: str, changes: dict[str, Any]) -> None:
    """Before anything is drawn."""
    claim(model, group, **changes)

    with pytest.raises(ModelError, match=r"config\.json describes no model"):
        load_model(model)


def test_a_setting_to_draw_with_that_is_missing_has_its_default(model: Path) -> None:
    """Wherever it is read: by the sampler, and by an export's card."""
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample": {"steps": 5}}))

    assert load_model(model).description["sample"] == {"sampler": "ddim", "steps": 5, "guidance_scale": 2.0}


@pytest.mark.parametrize(
    "names", [[], ["A"] * 3, ["A", "b"], "Ab3", ["A", "b", 3], ["A", "b", "\x1b[2J"], ["A", "b", "c" * 99]]
)
def test_class_names_that_are_no_names_are_refused(model: Path, names: Any) -> None:
    """They are printed and drawn: no escape codes, none twice, as many as classes."""
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"class_names": names}))

    with pytest.raises(ModelError, match="class_names must be"):
        load_model(model)


def header_of(**entries: Any) -> bytes:
    """Return a safetensors file of a header alone."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 9) + b"[[[[[[[[[",
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 4) + b"null",
        header_of(stem={"dtype": "F32", "shape": [HUGE, HUGE], "data_offsets": [0, 4 * HUGE**2]}),
        header_of(stem={"dtype": "F32", "shape": "wide", "data_offsets": []}),
        header_of(stem=5),
        b"\x80\x04\x95 a pickle, which is not run",
    ],
)
def test_weights_that_are_no_safetensors_are_refused(model: Path, content: bytes) -> None:
    """Nothing is allocated on the word of a header."""
    put_weights(model, content)

    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_model(model)


@pytest.mark.parametrize("cut", [1, 4, 1000])
def test_weights_that_are_cut_short_or_too_long_are_refused(model: Path, cut: int) -> None:
    """Even where config.json names the cut file's own checksum."""
    whole = (model / "model.safetensors").read_bytes()
    for content in (whole[:-cut], whole[: len(whole) // 2], whole + b"\0" * 2**21):
        put_weights(model, content)
        with pytest.raises(ModelError, match=r"cut short or too long|safetensors format"):
            load_model(model)


def link(path: Path) -> None:
    """Put a link in the file's place."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def pipe(path: Path) -> None:
    """Put a pipe that nothing writes to in the file's place."""
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    """Put a folder in the file's place."""
    path.unlink()
    path.mkdir()


def endless(path: Path) -> None:
    """Put a link to a device without an end in the file's place."""
    path.unlink()
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    """Make the file 1 TB that takes no room on disk."""
    os.truncate(path, 10**12)


@pytest.mark.parametrize("damage", [link, pipe, folder, endless, sparse])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_plain_file_of_the_expected_size_is_not_read(
    model: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """A link, a pipe, a folder, an endless device, an endless file: refused by name, without waiting."""
    damage(model / name)

    with pytest.raises(ModelError, match=name):
        load_model(model)


def test_a_model_folder_that_is_a_link_is_not_followed(model: Path, tmp_path: Path) -> None:
    """The folder that the user names may be one."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model").symlink_to(model)
    (tmp_path / "named").symlink_to(model)

    with pytest.raises(ModelError, match="model is a link, which is not followed"):
        load_model(tmp_path / "run")
    assert load_model(tmp_path / "named").class_names == NAMES


@pytest.mark.parametrize(
    "text", ["", "[]", "5", "{" * 10**5, "nan", '{"format_version": 1}', '{"format_version": true}']
)
def test_a_description_that_is_none_is_refused(model: Path, text: str) -> None:
    """Whatever JSON it is."""
    (model / "config.json").write_text(text)

    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(model)


@pytest.mark.slow
def test_refusing_the_largest_claims_takes_under_a_gigabyte(model: Path) -> None:
    """In a process of its own: a wide network whose header agrees with it, over a file that does not."""
    claim(model, "architecture", base_channels=2**20, channel_mults=[64] * 8, blocks=100, image_size=256, patch_size=1)
    code = f"""
from mlflow_ddpm import load_model
try:
    load_model({str(model)!r})
finally:
    print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )

    assert "ModelError" in done.stderr.splitlines()[-1]
    assert int(done.stdout) < 2**20  # KiB; getrusage would count the parent's memory as well
