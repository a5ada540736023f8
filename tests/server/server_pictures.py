"""Small pictures made of the packaged example, and bad ones."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from importlib import resources

from PIL import Image

CONTENT_SIZE = (96, 64)
STYLE_SIZE = (96, 72)
STYLES = ("brush", "glass", "ink")
"""One for each label of the example: 0, 1 and 2."""


@cache
def example(name: str, size: tuple[int, int] = CONTENT_SIZE) -> Image.Image:
    """A picture of the packaged example at another size; a label map keeps its labels."""
    image = Image.open(io.BytesIO((resources.files("intarsia.examples") / name).read_bytes()))
    resampling = Image.Resampling.NEAREST if image.mode == "P" else Image.Resampling.LANCZOS
    return image.resize(size, resampling)


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@cache
def content(size: tuple[int, int] = CONTENT_SIZE) -> bytes:
    return encoded(example("content.png", size))


@cache
def label_map(size: tuple[int, int] = CONTENT_SIZE) -> bytes:
    return encoded(example("labels.png", size))


@cache
def style(name: str) -> bytes:
    return encoded(example(f"styles/{name}.png", STYLE_SIZE))


def flat(colour: str | int, size: tuple[int, int] = CONTENT_SIZE, mode: str = "RGB") -> bytes:
    return encoded(Image.new(mode, size, colour))


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
