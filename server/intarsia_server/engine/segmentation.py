"""Label maps: one integer a pixel, and the segments made of them. No torch here: the front process checks them too."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from intarsia_server.engine.cancel import Cancelled, never, poll
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.images import open_image, see_through
from intarsia_server.engine.request import Segment

MAX_COLOURS = 64
MAX_SEGMENTS = 256
UNMARKED_GREY = 255
"""What a scribble picture without any transparent pixel is filled with."""

_LOSSY = (b"\xff\xd8", b"RIFF")
"""What files of JPEG and WebP begin with."""

LabelMap = NDArray[np.int32]
"""[H, W]; label values as they stand in the file, or segment indices once assigned."""


class Scale(Enum):
    """What the numbers of a label picture mean, and so which of them are near each other."""

    INDEX = "index"
    GREY = "grey"
    COLOUR = "colour"


@dataclass(frozen=True)
class LabelPicture:
    """A picture of labels as it was decoded.

    Attributes:
        values: [H, W]: index, grey value or 0xRRGGBB of every pixel; -1 where the picture is not opaque.
        scale: which of the three.
        lossy: whether the file format may have moved whole areas to another value.
    """

    values: LabelMap
    scale: Scale
    lossy: bool = False


def read_labels(data: bytes, field: str, *, max_pixels: int, transparent_entries: bool = False) -> LabelPicture:
    """Reads an index, palette, grey or colour-coded picture, however many colours it has.

    Args:
        data: the encoded picture.
        field: its path, for errors.
        max_pixels: largest picture to decode.
        transparent_entries: whether values that the file calls transparent show no label; in label maps they are
            labels too, as palettes have such an entry for other reasons.

    Raises:
        InvalidInputError: not a picture, or not of whole numbers from 0 on.
    """
    image = open_image(data, field, max_pixels=max_pixels)
    lossy = data.startswith(_LOSSY)
    if image.mode in {"P", "L", "1", "I", "I;16", "I;16L", "I;16B"}:
        values = np.asarray(image).astype(np.int32)
        if values.min() < 0:
            raise InvalidInputError(field, "has negative labels")
        if transparent_entries and (hidden := see_through(image)) is not None:
            values[hidden] = -1
        return LabelPicture(values, Scale.GREY if image.mode == "L" else Scale.INDEX, lossy)
    if image.mode == "F":
        raise InvalidInputError(field, "has fractions for labels")
    hidden = see_through(image) if transparent_entries or "A" in image.getbands() else None
    rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    grey = (rgb[..., 0] == rgb[..., 1]) & (rgb[..., 1] == rgb[..., 2])
    if hidden is not None:
        grey |= hidden  # nobody has seen the colour that lies there
    if grey.all():
        # A grey picture saved as RGB: its labels are the grey values that its maker wrote.
        picture = LabelPicture(np.ascontiguousarray(rgb[..., 0]), Scale.GREY, lossy)
    else:
        picture = LabelPicture(rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2], Scale.COLOUR, lossy)
    if hidden is not None:
        picture.values[hidden] = -1
    return picture


def decode_label_map(data: bytes, field: str, *, max_pixels: int) -> LabelMap:
    """Reads a label map that has to be right as it stands; the label of a colour is 0xRRGGBB.

    Raises:
        InvalidInputError: not a picture, translucent, or more than 64 colours.
    """
    picture = read_labels(data, field, max_pixels=max_pixels)
    if picture.values.min() < 0:
        raise translucent(field)
    check_colours(picture, field)
    return picture.values


def read_marks(data: bytes, field: str, *, max_pixels: int) -> LabelMap:
    """Reads scribbles: labels, or -1 for unmarked.

    Unmarked is what is not opaque; in a grey or palette picture without any such pixel, what is 255.

    Raises:
        InvalidInputError: as `read_labels`, or more than 64 colours.
    """
    picture = read_labels(data, field, max_pixels=max_pixels, transparent_entries=True)
    check_colours(picture, field)
    if picture.scale is not Scale.COLOUR and picture.values.min() >= 0:
        picture.values[picture.values == UNMARKED_GREY] = -1
    return picture.values


def translucent(field: str) -> InvalidInputError:
    """The refusal of a label map with pixels that show no label."""
    return InvalidInputError(field, "is translucent; a label map has one opaque label a pixel")


def distinct(values: LabelMap) -> LabelMap:
    """Every value once [N], ascending.

    With counts numpy sorts; without, it hashes, ten times slower on millions, and lets no other thread run meanwhile.
    """
    return np.unique(values, return_counts=True)[0]


def too_many_colours(count: int, field: str) -> InvalidInputError:
    """The refusal of a picture with `count` different colours."""
    return InvalidInputError(
        field,
        f"has {count} colours, at most {MAX_COLOURS} are allowed; "
        "a label map must not be saved as JPEG or anti-aliased",
    )


def check_colours(picture: LabelPicture, field: str) -> None:
    """Refuses a colour-coded picture that can only be a photograph, or a label map that was blurred.

    Raises:
        InvalidInputError: more than 64 colours.
    """
    if picture.scale is not Scale.COLOUR:
        return
    present = distinct(picture.values)
    colours = len(present) - int(present[0] < 0)
    if colours > MAX_COLOURS:
        raise too_many_colours(colours, field)


def owners(segments: Sequence[Segment], *, segment_field: str) -> dict[int, int]:
    """The index of the segment that claims each label.

    Raises:
        InvalidInputError: a label that is claimed twice.
    """
    owner: dict[int, int] = {}
    for index, segment in enumerate(segments):
        for label in segment.labels:
            if label in owner:
                raise InvalidInputError(
                    f"{segment_field}[{index}].labels", f"label {label} already belongs to segments[{owner[label]}]"
                )
            owner[label] = index
    return owner


def check_claims(
    present: Collection[int], segments: Sequence[Segment], *, label_field: str, segment_field: str
) -> dict[int, int]:
    """Checks that the segments claim all labels that are there and no other.

    Returns:
        The index of the segment that claims each label.

    Raises:
        InvalidInputError: a label that no segment claims, pixels without a label, two segments that claim one label, or
            a segment that claims a label that is not there.
    """
    owner = owners(segments, segment_field=segment_field)
    missing = [label for label in present if label >= 0 and label not in owner]
    if not missing and min(present) < 0:
        raise translucent(label_field)
    if missing:
        listed = ", ".join(map(label_name, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise InvalidInputError(label_field, f"labels without a style: {listed}")
    there, picture = set(present), label_field.partition(".")[0]
    for index, segment in enumerate(segments):
        absent = [label for label in segment.labels if label not in there]
        if absent:
            raise InvalidInputError(
                f"{segment_field}[{index}].labels", f"label {label_name(absent[0])} has no pixel in {picture}"
            )
    return owner


def assign_segments(labels: LabelMap, segments: Sequence[Segment], *, label_field: str, segment_field: str) -> LabelMap:
    """Replaces every label by the index of the segment that claims it.

    Raises:
        InvalidInputError: as `check_claims`.
    """
    present = distinct(labels)
    owner = check_claims(present.tolist(), segments, label_field=label_field, segment_field=segment_field)
    lookup = np.array([owner[int(label)] for label in present], dtype=np.int32)
    # Not unique's own inverse: for as long as that takes, the event loop would stand still.
    indices: LabelMap = lookup[np.searchsorted(present, labels)]
    return indices


def label_name(label: int) -> str:
    """A label for a person, as a number and, where it can be one, as a colour."""
    return str(label) if label <= 65535 else f"{label} (#{label:06x})"


def resize_labels(
    labels: LabelMap,
    count: int,
    width: int,
    height: int,
    *,
    resampling: Image.Resampling = Image.Resampling.BOX,
    cancelled: Cancelled = never,
) -> LabelMap:
    """Label map at another size: each pixel takes the label that covers most of it, so no new label can appear.

    Args:
        labels: [H, W], indices below `count`.
        count: of labels.
        width: in pixels.
        height: in pixels.
        resampling: of each label's mask; bilinear gives smooth borders at a larger size.
        cancelled: polled before each label.

    Raises:
        CancelledError: `cancelled` said so.
    """
    if labels.shape == (height, width):
        return labels
    best = np.zeros((height, width), dtype=np.float32)
    largest: LabelMap = np.zeros((height, width), dtype=np.int32)
    for index in range(count):
        poll(cancelled)
        mask = Image.fromarray((labels == index).astype(np.float32))
        coverage = np.asarray(mask.resize((width, height), resampling))
        largest[coverage > best] = index
        best = np.maximum(best, coverage)
    return largest
