"""Encoded pictures of kinds that Pillow alone does not write."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

LIMIT = 1_000_000


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def raw_png(width: int, height: int, depth: int, colour_type: int, rows: list[bytes]) -> bytes:
    """A PNG of any bit depth; its header may claim more than the rows hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """SRGB with the red and blue primaries exchanged: what a file calls red is blue."""
    profile = srgb_profile()
    for a, b in ((b"rXYZ", b"bXYZ"), (b"rTRC", b"bTRC")):
        assert profile.count(a) == profile.count(b) == 1
        profile = profile.replace(a, b"????").replace(b, a).replace(b"????", b)
    return profile


def gradient(height: int, width: int) -> np.ndarray:
    """RGB in which no two rows, columns or channels are alike."""
    y, x = np.mgrid[:height, :width]
    return np.stack([20 + 9 * y, 30 + 7 * x, 200 - 3 * y - 2 * x], axis=2).astype(np.uint8)
