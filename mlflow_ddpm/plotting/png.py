"""A picture without transparency as a PNG file: the same pixels, the same bytes, whatever libraries are installed.

None of the format's filters is used: charts are large flat areas and repeated letters, which zlib finds best in the
pixels as they are. Format: W3C, "Portable Network Graphics (PNG) Specification", third edition.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["render_png"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LEVEL = 3  # of zlib's nine: the next takes half as long again and saves a tenth of the size
_INCHES_PER_METRE = 1 / 0.0254


def render_png(pixels: NDArray[np.uint8], dpi: float) -> bytes:
    """Return the file of pixels of shape (height, width, 3) or (height, width, 4), whose last one is left out."""
    import numpy as np

    height, width = pixels.shape[:2]
    lines = np.zeros((height, 1 + 3 * width), dtype=np.uint8)  # the first byte of a line says: no filter
    lines[:, 1:] = pixels[..., :3].reshape(height, 3 * width)
    per_metre = round(dpi * _INCHES_PER_METRE)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),  # 8 bits each of red, green and blue
        (b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1)),
        (b"IDAT", zlib.compress(lines.tobytes(), _LEVEL)),
        (b"IEND", b""),
    )
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
