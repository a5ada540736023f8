"""A label map on the client's side, for pictures of it; the server has its own reading, which decides."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps

__all__ = ["MOST_LABELS", "label_indices", "segment_map"]

MOST_LABELS = 256
"""That a grey picture can tell apart."""

_LONGER_SIDE = 900
_INDEX_MODES = ("1", "P", "I", "I;16", "I;16B")
"""Of pictures whose numbers are mere names: one is not near another."""


def segment_map(labels: Image.Image, order: Sequence[int]) -> Image.Image:
    """Returns `label_indices` of a label map made smaller: at most 900 pixels a side."""
    image = ImageOps.exif_transpose(labels)
    scale = min(1.0, _LONGER_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return label_indices(image.resize(size, Image.Resampling.NEAREST), order)


def label_indices(labels: Image.Image, order: Sequence[int]) -> Image.Image:
    """Returns the index of each pixel's label in `order`, as a grey picture.

    Args:
        labels: Grey, palette or colour-coded, as the API has it; a colour's label is 0xRRGGBB.
        order: The labels, at most `MOST_LABELS`. A colour or grey value that is none of them counts to the nearest,
            as JPEG moves colours; a number in an index or palette picture to the first.
    """
    values = _values(labels, order)
    index = {label: number for number, label in enumerate(order)}
    for value in set(values) - index.keys():
        index[value] = 0 if labels.mode in _INDEX_MODES else index[_nearest(value, order)]
    return Image.frombytes("L", labels.size, bytes(index[value] for value in values))


def _nearest(value: int, order: Sequence[int]) -> int:
    colour = _channels(value)
    return min(order, key=lambda label: sum((a - b) ** 2 for a, b in zip(colour, _channels(label), strict=True)))


def _channels(value: int) -> tuple[int, int, int]:
    return value >> 16, value >> 8 & 255, value & 255


def _values(image: Image.Image, order: Sequence[int]) -> Sequence[int]:
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
    # A grey picture saved as RGB; with a label that no grey value is, it shows colours that happen to be grey.
    if red == green == blue and max(order) <= 255:
        return red
    return [r << 16 | g << 8 | b for r, g, b in zip(red, green, blue, strict=True)]
