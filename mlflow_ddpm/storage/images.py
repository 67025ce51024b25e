"""Pictures by epoch: their names, their files under ``samples/`` of an output directory, their PNG bytes."""

from __future__ import annotations

import contextlib
import re
import tempfile
import time
from collections.abc import Container, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlflow_ddpm.core.atomic_file import replace_file
from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import whole_number
from mlflow_ddpm.storage.layout import SAMPLE_PATTERN, SAMPLES_FOLDER, sample_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAGE_WIDTH = 700  # pixels of a description on MLflow's page
_NAME = re.compile(r"[A-Za-z0-9_\-]{1,100}")


class LoggedImage(NamedTuple):
    """A picture on disk that belongs to an epoch."""

    name: str
    path: Path
    epoch: int
    timestamp_ms: int
    content: bytes | None = None  # the PNG, of a picture that the disk refused
    error: OSError | None = None  # why it did

    @contextlib.contextmanager
    def file(self) -> Iterator[Path]:
        """Give the picture's file; one that the disk refused gets one in the system's temporary directory."""
        if self.content is None:
            yield self.path
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self.path.name
            path.write_bytes(self.content)
            yield path

    def put_on_disk(self) -> bool:
        """Write a picture that the disk refused, if it takes it now; return whether the picture is there."""
        if self.content is None:
            return True
        try:
            _write(self.path, self.content)
        except OSError:
            return False
        return True

    def fits_page(self) -> bool:
        """Return whether MLflow's page can show the picture in a description, where nothing makes it smaller."""
        from PIL import Image

        with contextlib.suppress(OSError), Image.open(self.path) as picture:  # reads the header alone
            return picture.width <= PAGE_WIDTH
        return False


def image_path(directory: Path, name: str, epoch: int) -> Path:
    """Return where a picture is kept; raise UsageError for no plain file name or no whole number >= 0."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"a picture's name must be letters, digits, _ and - alone, got {name!r}")
    return directory / SAMPLES_FOLDER / sample_name(name, whole_number("a picture's epoch", epoch))


def image_from_path(path: Path) -> LoggedImage:
    """Return a picture file as what it is, at the file's time; raise UsageError if it is not named as one."""
    parts = SAMPLE_PATTERN.fullmatch(path.name)
    if parts is None:
        raise UsageError(f"a picture's file must be named NAME_epoch_NUMBER.png, got {path.name}")
    return LoggedImage(parts["name"], path, int(parts["epoch"]), path.stat().st_mtime_ns // 1_000_000)


def save_image(directory: Path, name: str, image: NDArray[np.uint8], epoch: int) -> LoggedImage:
    """Keep a picture as PNG, or return it with its content; raises as :func:`image_path` and :func:`encode_png`."""
    path, content = image_path(directory, name, epoch), encode_png(image)
    try:
        _write(path, content)
        return image_from_path(path)
    except OSError as error:
        return LoggedImage(name, path, int(epoch), time.time_ns() // 1_000_000, content, error)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)


def images_on_disk(directory: Path, *, but: Container[str] = ()) -> list[LoggedImage]:
    """Return the pictures of an output directory by file name, except those whose file names are in ``but``."""
    try:
        folder = directory / SAMPLES_FOLDER
        if folder.is_symlink():  # a directory may come from a stranger: what lies outside it is not sent
            return []
        paths = [path for path in sorted(folder.glob("*.png")) if path.is_file() and not path.is_symlink()]
        return [image_from_path(path) for path in paths if SAMPLE_PATTERN.fullmatch(path.name) and path.name not in but]
    except OSError:  # the folder cannot be read: no reason to keep anything else back
        return []


def load_encoder() -> None:
    """Import what :func:`encode_png` needs, while file descriptors are left: Pillow loads its formats at first use."""
    with contextlib.suppress(ImportError, OSError):
        import numpy as np  # noqa: F401
        from PIL import Image

        Image.preinit()


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """Return the PNG file of an image, uint8 of shape (H, W), (H, W, 3) or (H, W, 4), or raise UsageError."""
    import numpy as np
    from PIL import Image

    given: object = image
    if isinstance(given, Image.Image) and given.mode not in ("L", "RGB", "RGBA"):  # CMYK would pass for RGBA
        raise UsageError(f"a picture must be grey, RGB or RGBA, got one of mode {given.mode}; convert it to RGB first")
    try:
        pixels = np.asarray(image)
    except Exception as error:  # a ragged list; a tensor on a GPU, or with a gradient
        raise UsageError(f"a picture must be an array of uint8, got {type(image).__name__}: {error}") from error
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))  # noqa: PLR2004
    if pixels.dtype != np.uint8 or not is_image or not pixels.size:
        raise UsageError(
            f"a picture must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), got {pixels.dtype} {pixels.shape}"
        )
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
