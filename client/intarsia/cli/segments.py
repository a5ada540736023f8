"""A label map on the client's side, for pictures of it; the server has its own reading, which decides."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps

__all__ = ["segment_map"]

_LONGER_SIDE = 900


def segment_map(labels: Image.Image, order: Sequence[int]) -> Image.Image:
    """Returns the index of each pixel's label in `order`, as a grey picture of at most 900 pixels a side.

    Args:
        labels: Grey, palette or colour-coded, as the API has it; a colour's label is 0xRRGGBB.
        order: The labels, at most 256. Pixels of any other label count to the first.
    """
    image = ImageOps.exif_transpose(labels)
    scale = min(1.0, _LONGER_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    index = {label: number for number, label in enumerate(order)}
    found = bytes(index.get(label, 0) for label in _values(image.resize(size, Image.Resampling.NEAREST)))
    return Image.frombytes("L", size, found)


def _values(image: Image.Image) -> Sequence[int]:
    data = image.tobytes()
    match image.mode:
        case "L" | "P":
            return data
        case "1":
            return [value // 255 for value in image.convert("L").tobytes()]
        case "I" | "I;16":
            return memoryview(data).cast("i" if image.mode == "I" else "H").tolist()
        case "I;16B":
            return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
    data = image.convert("RGB").tobytes()
    red, green, blue = data[::3], data[1::3], data[2::3]
    if red == green == blue:
        return red
    return [r << 16 | g << 8 | b for r, g, b in zip(red, green, blue, strict=True)]
