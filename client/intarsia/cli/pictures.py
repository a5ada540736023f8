"""Pictures as people see them, whatever their file holds."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from intarsia.errors import RequestError

__all__ = ["open_picture"]


def open_picture(path: Path) -> Image.Image:
    """Opens a picture upright and as RGB; 16 bits are scaled down, and what is translucent lies over white.

    Raises:
        OSError: The file cannot be read.
        RequestError: It is no picture.
    """
    try:
        image = ImageOps.exif_transpose(Image.open(path))
    except UnidentifiedImageError as error:
        raise RequestError(f"{path}: is no picture") from error
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _scale_to_8_bits(image)
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Pillow's own conversion would clip everything above 255 to white."""
    wide = image.convert("I")
    wide.info.pop("transparency", None)  # a grey value of 16 bits, which 8 bits cannot single out
    # The rest keeps 65535 / 257, say, from becoming 254: Pillow cuts off decimals.
    return wide.point(lambda value: value * (1 / 257) + 0.001).convert("L")
