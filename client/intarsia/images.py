"""Pictures as the client takes them, turned into messages."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from intarsia.errors import RequestError
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["ImageSource", "to_image"]

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | pb.Image
"""A path, an encoded picture, a PIL image, or the API's own message: what `Client.upload` returns."""

_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


def to_image(source: ImageSource) -> pb.Image:
    """Returns the message for a picture; files and bytes go as they are, a PIL image losslessly.

    Raises:
        OSError: The file cannot be read.
        RequestError: The PIL image has a mode that no lossless format takes.
    """
    if isinstance(source, pb.Image):
        return source
    if isinstance(source, bytes):
        return pb.Image(data=source)
    if isinstance(source, Image.Image):
        return pb.Image(data=_encode(source))
    return pb.Image(data=Path(source).read_bytes())


def _encode(image: Image.Image) -> bytes:
    if image.mode == "I":  # label maps often come as 32-bit integers
        image = _narrow(image)
    if image.mode not in _PNG_MODES and image.mode != "CMYK":
        raise RequestError(f"a PIL image of mode {image.mode} cannot be sent: convert it to RGB (a label map: to L)")
    buffer = io.BytesIO()
    # The EXIF orientation goes along, so that the server turns the picture as it would turn the file.
    image.save(buffer, "TIFF" if image.mode == "CMYK" else "PNG", exif=image.getexif())
    return buffer.getvalue()


def _narrow(image: Image.Image) -> Image.Image:
    lowest, highest = image.getextrema()
    if not (isinstance(lowest, int | float) and isinstance(highest, int | float) and 0 <= lowest <= highest <= 0xFFFF):
        raise RequestError("a PIL image of mode I can be sent only with values from 0 to 65535")
    return image.convert("I;16")
