"""Encoded pictures to arrays and back. No torch here: the front process checks pictures too."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.request import ImageFormat

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
"""What is decoded; a short list keeps the surface that strangers reach small."""

# Pillow would refuse large pictures by a fixed number of its own; `open_image` checks the caller's before decoding.
Image.MAX_IMAGE_PIXELS = None

# Pillow's complaints about strangers' files are of no use to an operator, and name paths of the installation.
warnings.filterwarnings("ignore", module=r"PIL\.")

Pixels = NDArray[np.uint8]
"""RGB, [H, W, 3]."""


@dataclass(frozen=True)
class DecodedImage:
    """RGB pixels, and what had to be worked around on the way (for a warning event)."""

    pixels: Pixels
    warning: str | None = None


def open_image(data: bytes, field: str, *, max_pixels: int) -> Image.Image:
    """Decodes and turns upright, in whatever mode the file has.

    Raises:
        InvalidInputError: not a picture, truncated, or more than `max_pixels`; the size is checked before decoding.
    """
    if not data:
        raise InvalidInputError(field, "is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise _undecodable(field) from error
    width, height = image.size
    if width * height > max_pixels:
        raise InvalidInputError(field, f"has {width}x{height} pixels, more than the limit of {max_pixels}")
    try:
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:
        raise _undecodable(field) from error


def pixel_size(data: bytes) -> tuple[int, int]:
    """(width, height) of an encoded picture by its header alone, as the file has it; of one that `open_image` takes."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.size


def pixel_count(data: bytes) -> int:
    """Pixels of an encoded picture by its header alone; of one that `open_image` takes."""
    width, height = pixel_size(data)
    return width * height


def _undecodable(field: str) -> InvalidInputError:
    """Decoders raise OSError, SyntaxError, struct.error and more; whichever it is, the data is at fault."""
    return InvalidInputError(field, f"cannot be decoded as an image ({', '.join(FORMATS)})")


def see_through(image: Image.Image) -> NDArray[np.bool_] | None:
    """Where a picture [H, W] is not opaque, by an alpha channel or by a colour that the file calls transparent.

    None where it is opaque throughout.
    """
    if "A" in image.getbands():
        alpha = image.getchannel("A")
    elif "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
    else:
        return None
    hidden: NDArray[np.bool_] = np.asarray(alpha) < 255
    return hidden if hidden.any() else None


def decode_rgb(data: bytes, field: str, *, max_pixels: int) -> DecodedImage:
    """Decodes a picture of any kind to sRGB: 16 bits scaled down, alpha laid over white, CMYK and profiles converted.

    Raises:
        InvalidInputError: as `open_image`.
    """
    image = open_image(data, field, max_pixels=max_pixels)
    warning = None
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        image = _scale_to_8_bits(image, field)
    translucent = "A" in image.getbands() or "transparency" in image.info
    if profile:
        try:
            image = _to_srgb(_without_palette(image, translucent=translucent), profile)
        except (ImageCms.PyCMSError, OSError, ValueError):
            warning = f"{field}: the embedded colour profile could not be read and was ignored"
    if translucent:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return DecodedImage(np.asarray(image.convert("RGB")), warning)


def _scale_to_8_bits(image: Image.Image, field: str) -> Image.Image:
    """16-bit grey: Pillow's own conversion would clip everything above 255 to white."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535 or image.mode == "F":
        raise InvalidInputError(field, "has a pixel format other than 8 or 16 bits per channel")
    return Image.fromarray((values.astype(np.uint32) // 257).astype(np.uint8))


def _without_palette(image: Image.Image, *, translucent: bool) -> Image.Image:
    """In a mode that colour management takes, with alpha as a channel where there is any."""
    if translucent:
        return image.convert("RGBA")
    return image if image.mode in {"L", "RGB", "CMYK"} else image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
    if converted is None:
        raise ValueError("no conversion")
    converted.info.pop("icc_profile", None)
    return converted


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """Lanczos resampling to exactly that size."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def cover(pixels: Pixels, width: int, height: int) -> Pixels:
    """Scaled to cover that size and cropped about the centre, so that strokes keep their shape."""
    fitted = ImageOps.fit(Image.fromarray(pixels), (width, height), Image.Resampling.LANCZOS)
    return np.asarray(fitted)


def fit_longer_side(width: int, height: int, longer: int) -> tuple[int, int]:
    """The size (width, height) with that longer side and the same proportions, at least 1 pixel each."""
    scale = longer / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode(
    pixels: Pixels, image_format: ImageFormat, *, quality: int = 92, text: Mapping[str, str] | None = None
) -> bytes:
    """Encodes RGB pixels; `text` becomes PNG text chunks and is left out of the other formats."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if image_format is ImageFormat.PNG:
        chunks = PngImagePlugin.PngInfo()
        for key, value in (text or {}).items():
            chunks.add_itxt(key, value)
        image.save(buffer, "PNG", pnginfo=chunks)
    elif image_format is ImageFormat.JPEG:
        image.save(buffer, "JPEG", quality=quality, subsampling=0)
    else:
        image.save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()
