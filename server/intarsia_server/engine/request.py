"""What the engine can be asked to do, free of any transport: encoded pictures and plain values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from intarsia_server.engine.parameters import MethodParameters


class Optimizer(StrEnum):
    """How a stage is optimised."""

    LBFGS = "lbfgs"
    ADAM = "adam"


class Start(StrEnum):
    """The image a job starts from; PALETTE is the content in the colours of the style that a stage applies."""

    CONTENT = "content"
    NOISE = "noise"
    IMAGE = "image"
    PALETTE = "palette"


class Until(StrEnum):
    """When a stage ends: after its steps, or when its objective has converged, after its steps at the latest."""

    STEPS = "steps"
    CONVERGED = "converged"


class Precision(StrEnum):
    """What the encoder's convolutions run in; AUTO takes bf16 where the device has units for it."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class ImageFormat(StrEnum):
    """Encoding of the result."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class SegmentationModel(StrEnum):
    """Networks that find VOC's classes, as torchvision has them."""

    FCN_RESNET101 = "fcn_resnet101"
    DEEPLABV3_RESNET101 = "deeplabv3_resnet101"
    LRASPP_MOBILENET_V3_LARGE = "lraspp_mobilenet_v3_large"


@dataclass(frozen=True)
class LabelMapSource:
    """An encoded label map of the content image's size."""

    data: bytes = field(repr=False)


@dataclass(frozen=True)
class SoftMask:
    """How much each pixel belongs to a label: an encoded grey picture of the content image's size."""

    label: int
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class SoftMasks:
    """One mask per label."""

    masks: tuple[SoftMask, ...]


@dataclass(frozen=True)
class Box:
    """A rectangle around an object, in pixels of the upright content image; right and bottom lie outside."""

    label: int
    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Boxes:
    """Objects by their boxes; label 0 is everything else."""

    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Scribbles:
    """An encoded picture of the content image's size in which some pixels carry their label."""

    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Automatic:
    """Whatever a network finds; labels are class indices."""

    model: SegmentationModel


Segmentation = LabelMapSource | SoftMasks | Boxes | Scribbles | Automatic
"""Where the segments lie, or how to find out."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """All pixels of one or several labels, and what to do with them.

    Attributes:
        labels: labels of the label map that make up the segment.
        style: encoded style image, or None to keep the content's pixels.
        style_weight: factor on the segment's style loss.
        style_scale: size of the style image over that of the output, by length.
        content_weight: factor on the segment's content loss.
    """

    labels: tuple[int, ...]
    style: bytes | None
    style_weight: float = 1.0
    style_scale: float = 1.0
    content_weight: float = 1.0

    @cached_property
    def style_sha256(self) -> str | None:
        """Of the encoded style image, in hexadecimal; None without one."""
        return None if self.style is None else hashlib.sha256(self.style).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """How stages are optimised; every value is resolved, none is a placeholder.

    `memory_bytes` is what the worker may hold in all; None: what it has.
    """

    optimizer: Optimizer
    learning_rate: float
    history: int
    start: Start
    start_image: bytes | None = None
    until: Until = Until.STEPS
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """Size (longer side in pixels; None: the content's, at most 600), format and JPEG/WebP quality of the result."""

    size: int | None = None
    format: ImageFormat = ImageFormat.PNG
    quality: int = 92


@dataclass(frozen=True, kw_only=True)
class TransferRequest:
    """Everything a job needs; picklable, so that it can cross to a worker process."""

    content: bytes = field(repr=False)
    segmentation: Segmentation
    segments: tuple[Segment, ...] = field(repr=False)
    parameters: MethodParameters
    paper: bool
    optimization: Optimization
    output: Output
    seed: int
    encoder: str
    precision: Precision
    preview_interval: int

    @property
    def kind(self) -> str:
        """What the log calls it: the method."""
        return self.parameters.method


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """A finished picture to be judged against what it was made of; picklable.

    Attributes:
        content: encoded content image.
        label_map: of the content image's size, encoded.
        segments: labels and style images; the factors are not used.
        result: the picture to judge, encoded, of the content image's proportions.
        encoder: whose features are compared.
    """

    content: bytes = field(repr=False)
    label_map: bytes = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)
    result: bytes = field(repr=False)
    encoder: str

    @property
    def kind(self) -> str:
        """What the log calls it."""
        return "evaluation"


@dataclass(frozen=True, kw_only=True)
class SegmentationRequest:
    """A content image whose labels are wanted, and how to find them; picklable."""

    content: bytes = field(repr=False)
    segmentation: Segmentation

    @property
    def kind(self) -> str:
        """What the log calls it."""
        return "segmentation"


Work = TransferRequest | EvaluationRequest | SegmentationRequest
"""Whatever a job can be."""
