"""Images and labels: the embedded digits, EMNIST's official files, and every way in which such a file can be wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.emnist_byclass import idx
from support.pipeline import EMNIST_MNIST, needs_emnist

from mlflow_ddpm.core.errors import DataError
from mlflow_ddpm.ddpm.config.groups import DataConfig
from mlflow_ddpm.ddpm.data.images import to_model_range, to_pixels
from mlflow_ddpm.ddpm.data.loading import load_dataset, load_digits, load_emnist

torch.set_num_threads(1)

LETTERS = "".join(f"{i} {64 + i} {96 + i}\n" for i in range(1, 27))


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """A folder with a small, sound split ``letters``: 30 training and 26 test images, labels from 1."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 30), ("test", 26)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 26 + 1).astype(np.uint8)
        (tmp_path / f"emnist-letters-{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"emnist-letters-{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    (tmp_path / "emnist-letters-mapping.txt").write_text(LETTERS)
    return tmp_path


def test_digits_are_the_real_ones_split_the_same_way_always() -> None:
    """All 1,797 digits are there once; 297 are held out; every class is in both parts."""
    from sklearn import datasets

    first, again = load_digits(8), load_digits(8)
    every = torch.cat([first.train.images, first.test.images]).flatten(1).double().sum(1).sort().values
    expected = torch.from_numpy(datasets.load_digits().images / 16 * 255).round().flatten(1).sum(1).sort().values

    assert (len(first.train.labels), len(first.test.labels)) == (1500, 297)
    assert torch.equal(expected, every)
    assert torch.equal(first.test.images, again.test.images)
    assert set(range(10)) == set(first.train.labels.tolist()) == set(first.test.labels.tolist())
    assert tuple("0123456789") == first.class_names


def test_digits_are_enlarged_to_the_size_asked_for() -> None:
    """Enlarging keeps uint8 and, averaged back, the original picture but for bicubic's sharper edges."""
    small, large = load_digits(8).train.images, load_digits(16).train.images
    back = torch.nn.functional.avg_pool2d(large.float(), 2)

    assert (torch.uint8, (1500, 1, 16, 16)) == (large.dtype, tuple(large.shape))
    assert (back - small.float()).abs().mean() < 12


def test_images_become_the_models_range_and_back() -> None:
    """Framing is black, and every pixel survives the way there and back."""
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    x = to_model_range(images, 32)

    assert tuple(x.shape) == (4, 1, 32, 32)
    assert -1 <= x.min() <= x.max() <= 1
    assert (x[:, :, :2] == -1).all()
    assert torch.equal(images, to_pixels(x)[:, :, 2:30, 2:30])
    assert tuple(to_model_range(images, 16).shape) == (4, 1, 16, 16)


def test_letters_are_turned_upright_counted_from_zero_and_named(letters: Path) -> None:
    """The stored image is the transpose of the one returned; label 1 becomes 0, named by the mapping's capital."""
    stored = np.frombuffer(
        gzip.decompress((letters / "emnist-letters-train-images-idx3-ubyte.gz").read_bytes())[16:], dtype=np.uint8
    ).reshape(30, 28, 28)
    data = load_dataset(DataConfig(name="emnist-letters", dir=str(letters)))

    assert np.array_equal(stored.transpose(0, 2, 1), data.train.images[:, 0].numpy())
    assert [i % 26 for i in range(30)] == data.train.labels.tolist()
    assert tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ") == data.class_names


@needs_emnist
def test_real_emnist_digits_stand_upright() -> None:
    """Each class's mean image is more like scikit-learn's upright digits than like their transposes."""
    data = load_emnist(EMNIST_MNIST, "mnist")
    real = load_digits(28)
    closer = 0
    for digit in range(10):
        ours = data.train.images[data.train.labels == digit].float().mean(0).flatten()
        upright = real.train.images[real.train.labels == digit].float().mean(0)
        upright, lying = upright.flatten(), upright.transpose(1, 2).flatten()
        closer += bool(
            torch.corrcoef(torch.stack([ours, upright]))[0, 1] > torch.corrcoef(torch.stack([ours, lying]))[0, 1]
        )

    assert closer >= 9
    assert tuple("0123456789") == data.class_names


def damage_cut(path: Path) -> None:
    """Cut the compressed stream in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_short(path: Path) -> None:
    """Leave out bytes that the header promises."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-5]))


def damage_long(path: Path) -> None:
    """Add a byte that the header does not promise."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"x"))


def damage_plain(path: Path) -> None:
    """Replace the file with a web page, as a failed download does."""
    path.write_bytes(b"<html>404</html>")


def damage_bits(path: Path) -> None:
    """Flip bits in the middle of the compressed stream."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def damage_header(path: Path) -> None:
    """Cut within the header."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:6]))


def damage_promise(path: Path) -> None:
    """Let the header promise 2**32 - 1 images."""
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:4] + b"\xff" * 4 + content[8:]))


IMAGES, LABELS = "emnist-letters-train-images-idx3-ubyte.gz", "emnist-letters-train-labels-idx1-ubyte.gz"
MAPPING = "emnist-letters-mapping.txt"


def replace_with(content: bytes) -> Callable[[Path], object]:
    """Return a damage: the file now holds this."""
    return lambda path: path.write_bytes(content)


def replace_by(other: str) -> Callable[[Path], object]:
    """Return a damage: the file now is a copy of another one beside it."""
    return lambda path: path.write_bytes((path.parent / other).read_bytes())


BEYOND = gzip.compress(idx(np.full(30, 27, np.uint8)))
DOUBLES = gzip.compress(idx(np.zeros((30, 28, 28), np.uint8), magic=0x0D))
DAMAGES: list[tuple[Callable[[Path], object], str, str]] = [
    (damage_cut, IMAGES, "is cut short: its gzip stream has no end; fetch"),
    (damage_short, IMAGES, "is cut short: its header promises 23520 bytes, got 23515; fetch"),
    (damage_long, LABELS, "is too long: its header promises 30 bytes, more follow; fetch"),
    (damage_plain, LABELS, "is not a sound gzip file"),
    (damage_bits, IMAGES, "is not a sound gzip file|is cut short|is too long"),
    (damage_header, LABELS, "is cut short: expected a header of 8 bytes, got 6; fetch"),
    (damage_promise, IMAGES, "its header promises 3367254359280 bytes, got 23520"),
    (replace_with(b""), LABELS, "expected it to begin with 00000801, got nothing"),
    (Path.unlink, LABELS, f"missing {LABELS.removesuffix('.gz')}; name the folder that has them"),
    (replace_by(IMAGES), LABELS, "begin with 00000801, got 00000803"),
    (
        replace_by(LABELS.replace("train", "test")),
        LABELS,
        f"belong to {IMAGES}: expected 30 labels, one an image, got 26",
    ),
    (replace_with(BEYOND), LABELS, "labels that emnist-letters-mapping.txt does not name: expected 1 to 26, got 27"),
    (replace_with(DOUBLES), IMAGES, "expected it to begin with 00000803, got 00000d03"),
    (replace_with(b""), MAPPING, "names no classes"),
    (replace_with(b"1 65\nx\n"), MAPPING, "line 2: expected a label and char"),
    (replace_with(b"1 65\n1 66\n"), MAPPING, "line 2: expected a new label"),
]


@pytest.mark.parametrize(("damage", "name", "message"), DAMAGES)
def test_a_damaged_file_gets_one_line_that_names_it(
    letters: Path, damage: Callable[[Path], object], name: str, message: str
) -> None:
    """The line says which file, what was expected, what came, and what to do."""
    damage(letters / name)

    with pytest.raises(DataError, match=message) as refused:
        load_emnist(letters, "letters")

    assert "\n" not in str(refused.value)
    assert str(letters) in str(refused.value)


def test_an_absent_folder_lists_the_files_expected_in_it(tmp_path: Path) -> None:
    """All five official names are in the line."""
    with pytest.raises(DataError) as refused:
        load_emnist(tmp_path / "nowhere", "byclass")

    assert str(refused.value).count("emnist-byclass-") == 5
