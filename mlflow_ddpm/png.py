"""A picture without transparency as a PNG file: the same pixels, the same bytes, whatever libraries are installed.

Every line of the file is written as its difference from the one above, which suits charts, large flat areas and upright
strokes, and is quicker than trying all of the format's filters on each line. Format: W3C, "Portable Network Graphics
(PNG) Specification", third edition.
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
_UP = 2  # the filter: each byte less the one above it
_LEVEL = 6  # of zlib's nine
_INCHES_PER_METRE = 1 / 0.0254


def render_png(pixels: NDArray[np.uint8], dpi: float) -> bytes:
    """Return the file of pixels of shape (height, width, 3) or, the last one of four left out, (height, width, 4)."""
    import numpy as np

    height, width = pixels.shape[:2]
    lines = pixels[..., :3].reshape(height, 3 * width)
    filtered = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = lines[0]
    np.subtract(lines[1:], lines[:-1], out=filtered[1:, 1:])  # modulo 256, as the format has it
    per_metre = round(dpi * _INCHES_PER_METRE)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),  # 8 bits each of red, green and blue
        (b"pHYs", struct.pack(">IIB", per_metre, per_metre, 1)),
        (b"IDAT", zlib.compress(filtered.tobytes(), _LEVEL)),
        (b"IEND", b""),
    )
    return _SIGNATURE + b"".join(_chunk(name, content) for name, content in chunks)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
