"""The picture that a run's description begins with: the newest sample grid, else the dashboard, at a size that fits.

MLflow's pages show a picture in a description at its natural size.
"""

import logging
from pathlib import Path

from mlflow_ddpm.core.formatting import display_path
from mlflow_ddpm.storage.foreign_files import own_file
from mlflow_ddpm.storage.images import PAGE_WIDTH, encode_png, images_on_disk
from mlflow_ddpm.storage.layout import DASHBOARD_NAME, PREVIEW_NAME

_log = logging.getLogger("mlflow_ddpm")
_HEIGHT = 520  # pixels at most
_SMALL = 350  # a grid of fewer pixels is enlarged by a whole number
_MOST_PIXELS = 50_000_000  # of a picture that is opened: it may come from a store


def write_preview(directory: Path, into: Path) -> Path | None:
    """Write the preview of an output directory into another one, and return its path; None if there is no picture."""
    samples = sorted(images_on_disk(directory), key=lambda image: (image.epoch, image.name), reverse=True)
    dashboard = own_file(directory, DASHBOARD_NAME)
    for picture in [*(sample.path for sample in samples[:1]), *([dashboard] if dashboard else [])]:
        content = _thumbnail(picture)
        if content is not None:
            path = into / PREVIEW_NAME
            path.write_bytes(content)
            return path
    return None


def _thumbnail(picture: Path) -> bytes | None:
    """Return a picture as a PNG that fits; None, with a line in the log, if it cannot be read."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(picture) as opened:
            _check_size(opened.width * opened.height)
            image = opened.convert("L" if opened.mode == "L" else "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        _log.warning("%s cannot be shown in the run's description: %s", display_path(picture), error)
        return None
    factor = max(1, _SMALL // image.width)
    if factor > 1:  # whole pixels stay sharp
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((PAGE_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)
    return encode_png(np.asarray(image))


def _check_size(pixels: int) -> None:
    if pixels > _MOST_PIXELS:
        raise ValueError(f"it has {pixels:,} pixels, more than {_MOST_PIXELS:,}")
