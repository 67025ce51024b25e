"""EMNIST wherever it lies: the official archive, its folder, loose files; and what loading it takes."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from support.common import ROOT
from support.emnist_byclass import BYCLASS, write_archive, write_split
from support.pipeline import EMNIST_MNIST, needs_emnist

import mlflow_ddpm
from mlflow_ddpm.core.errors import DataError
from mlflow_ddpm.ddpm.data.images import Dataset, LabelledImages
from mlflow_ddpm.ddpm.data.loading import load_emnist

COUNTS = {"train": 70, "test": 62}
NOISE = np.random.default_rng(0).integers(0, 256, (100, 28, 28), dtype=np.uint8)


def loose(place: Path) -> Path:
    """Lay the gzip'd files into the folder itself."""
    for name, content in write_split("byclass", COUNTS, NOISE).items():
        (place / name).write_bytes(content)
    return place


def unzipped(place: Path) -> Path:
    """Lay the files into the folder without ``.gz``, as some libraries leave them."""
    for path in loose(place).glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    return place


def extracted(place: Path) -> Path:
    """Lay the files into ``gzip/``, as the archive unpacks."""
    (place / "gzip").mkdir()
    loose(place / "gzip")
    return place


def zipped(place: Path) -> Path:
    """Name the archive itself, whatever it is called."""
    write_archive(place / "emnist.zip", "byclass", COUNTS, NOISE)
    return place / "emnist.zip"


def downloaded(place: Path) -> Path:
    """Name the folder with ``gzip.zip`` in it, deflated, with a Mac's extra members."""
    with zipfile.ZipFile(place / "gzip.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in write_split("byclass", COUNTS, NOISE).items():
            archive.writestr(f"gzip/{name}", content)
            archive.writestr(f"__MACOSX/gzip/._{name}", b"")
    return place


@pytest.mark.parametrize("lay", [loose, unzipped, extracted, zipped, downloaded])
def test_a_split_is_read_from_wherever_it_lies(tmp_path: Path, lay: Callable[[Path], Path]) -> None:
    """The same images, labels and names; nothing is unpacked to disk."""
    place = lay(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    data = load_emnist(place, "byclass")

    assert np.array_equal(NOISE[:70].transpose(0, 2, 1), data.train.images[:, 0].numpy())
    assert [i % 62 for i in range(62)] == data.test.labels.tolist()
    assert (len(data.class_names), data.class_names[0]) == (62, "0")
    assert before == sorted(tmp_path.rglob("*"))


@needs_emnist
def test_real_emnist_is_the_same_in_the_archive_as_in_loose_files(tmp_path: Path) -> None:
    """Bit for bit."""
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
        for path in EMNIST_MNIST.glob("emnist-mnist-*"):
            archive.write(path, f"gzip/{path.name}")
    zipped, loose = load_emnist(tmp_path, "mnist"), load_emnist(EMNIST_MNIST, "mnist")

    for ours, theirs in ((zipped.train, loose.train), (zipped.test, loose.test)):
        assert torch.equal(theirs.images, ours.images)
        assert torch.equal(theirs.labels, ours.labels)


def damage_member(path: Path) -> None:
    """Flip a bit of an image file's bytes inside the archive."""
    content = bytearray(path.read_bytes())
    content[content.index(b"train-images") + 5000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:5000]),
            "is damaged .*delete it and fetch it again",
        ),
        (lambda path: path.write_bytes(b"<html>"), "is damaged"),
        (
            damage_member,
            "emnist.zip/gzip/emnist-byclass-train-images-idx3-ubyte.gz (cannot be unzipped|is not a sound)",
        ),
        (
            lambda path: write_archive(path, "letters", COUNTS, NOISE),
            "emnist.zip, missing emnist-byclass-mapping.txt, em",
        ),
    ],
)
def test_a_damaged_archive_gets_one_line_that_names_it(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    """And, inside it, the file."""
    path = zipped(tmp_path)
    damage(path)

    with pytest.raises(DataError, match=message) as refused:
        load_emnist(path, "byclass")

    assert "\n" not in str(refused.value)


def lines_run(body: Callable[[], Dataset]) -> int:
    """Count the lines of this package that run."""
    count, package = 0, str(Path(mlflow_ddpm.__file__).parent)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename.startswith(package) else None

    sys.settrace(trace)
    try:
        body()
    finally:
        sys.settrace(None)
    return count


def test_loading_runs_no_loop_over_images(tmp_path: Path) -> None:
    """A thousand times the images, but for one more line a megabyte."""
    few, many = tmp_path / "few.zip", tmp_path / "many.zip"
    write_archive(few, "byclass", {"train": 62, "test": 62}, NOISE)
    raw = write_archive(many, "byclass", {"train": 10_000, "test": 62}, NOISE)
    lines = [lines_run(lambda path=path: load_emnist(path, "byclass")) for path in (few, few, many)]  # type: ignore[misc]

    assert lines[2] <= lines[1] + 10 * (raw / 2**20 + 1)


MEASURE = """
import sys, torch
from mlflow_ddpm.ddpm.data.loading import load_emnist
def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
torch.zeros(9)[torch.randperm(9)].long().unique()
before = kib("VmRSS")
data = load_emnist(sys.argv[1], "byclass")
print(len(data.train.labels), len(data.test.labels), (kib("VmHWM") - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_loading_byclass_takes_at_most_a_quarter_more_than_its_bytes(tmp_path: Path) -> None:
    """All 814,255 images from the archive, in a process of its own: its peak beyond what it took before loading."""
    raw = write_archive(tmp_path / "gzip.zip", "byclass", BYCLASS, NOISE)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    train, test, peak = map(int, done.stdout.split())

    assert (train, test) == (697_932, 116_323)
    assert raw == 814_255 * 785
    assert raw * 0.9 < peak <= raw * 1.25


def test_a_batch_is_taken_from_where_the_set_lies() -> None:
    """On a device without room the set stays on the host, and batches come over; here both are the CPU."""
    data = LabelledImages(torch.from_numpy(NOISE)[:, None], torch.arange(100))
    cpu = torch.device("cpu")
    taken = data.take(torch.tensor([7, 3]), cpu)

    assert taken.labels.tolist() == [7, 3]
    assert torch.equal(data.images[[7, 3]], taken.images)
    assert data.to(cpu).images.data_ptr() == data.images.data_ptr()
    assert data.nbytes == 100 * (28 * 28 + 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_set_goes_to_a_device_where_it_takes_at_most_half_of_what_is_free() -> None:
    """Else it stays on the host."""
    device = torch.device("cuda")
    free = torch.cuda.mem_get_info()[0]
    small = LabelledImages(torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.zeros(10, dtype=torch.long))
    large = small._replace(images=torch.empty(1, dtype=torch.uint8).expand(free, 1, 1, 1))

    assert small.to(device).images.is_cuda
    assert not large.to(device).images.is_cuda
