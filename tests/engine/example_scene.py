"""Requests made of the shipped example, at sizes that suit a test."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from intarsia_server.engine.inputs import Inputs, decode_inputs
from intarsia_server.engine.parameters import MethodParameters, resolve
from intarsia_server.engine.request import (
    LabelMapSource,
    Optimization,
    Optimizer,
    Output,
    Precision,
    Segment,
    Segmentation,
    Start,
    TransferRequest,
    Until,
)
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
STYLES = ("brush", "glass", "ink")
MAX_PIXELS = 1_000_000


def png(pixels: np.ndarray | Image.Image, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def content(width: int, height: int) -> np.ndarray:
    """The example's photo at that size, [H, W, 3]."""
    return np.asarray(Image.open(EXAMPLES / "content.png").convert("RGB").resize((width, height)))


def labels(width: int, height: int) -> np.ndarray:
    """The example's label map at that size, [H, W], labels 0, 1, 2."""
    return np.asarray(Image.open(EXAMPLES / "labels.png").resize((width, height), Image.Resampling.NEAREST))


def style(name: str, longer: int) -> bytes:
    """One of the example's style images, made smaller."""
    image = Image.open(EXAMPLES / "styles" / f"{name}.png").convert("RGB")
    image.thumbnail((longer, longer))
    return png(image)


def resolved(method: str, explicit: Mapping[str, Any] | None = None, *, paper: bool = False) -> MethodParameters:
    return resolve(method, explicit or {}, paper=paper, segment_count=3, prefix=method)


def request(
    method: str,
    explicit: Mapping[str, Any] | None = None,
    *,
    size: tuple[int, int] = (96, 64),
    paper: bool = False,
    label_map: np.ndarray | None = None,
    segmentation: Segmentation | None = None,
    segments: tuple[Mapping[str, Any], ...] = ({}, {}, {}),
    optimizer: Optimizer = Optimizer.LBFGS,
    start: Start = Start.CONTENT,
    start_image: bytes | None = None,
    seed: int = 0,
    until: Until = Until.STEPS,
) -> TransferRequest:
    """A request on the example's photo.

    Args:
        method: its name.
        explicit: knobs that differ from the defaults (or from the publication's).
        size: (width, height) of the content image and of the result.
        paper: the publication's objective and knobs.
        label_map: [H, W] in place of the example's.
        segmentation: in place of a label map.
        segments: per segment, attributes that differ from the default; {"style": None} keeps a segment.
        optimizer: how.
        start: from where.
        start_image: encoded, for Start.IMAGE.
        seed: of the noise.
        until: when its stages end.
    """
    width, height = size
    chosen = tuple(
        replace(Segment(labels=(index,), style=style(name, 2 * max(size))), **changes)
        for index, (name, changes) in enumerate(zip(STYLES, segments, strict=True))
    )
    return TransferRequest(
        content=png(content(width, height)),
        segmentation=segmentation or LabelMapSource(png(labels(width, height) if label_map is None else label_map)),
        segments=chosen,
        parameters=resolved(method, explicit, paper=paper),
        paper=paper,
        optimization=Optimization(
            optimizer=optimizer, learning_rate=0.02, history=10, start=start, start_image=start_image, until=until
        ),
        output=Output(),
        seed=seed,
        encoder="embedded",
        precision=Precision.FP32,
        preview_interval=0,
    )


def inputs(of: TransferRequest) -> Inputs:
    return decode_inputs(of, max_pixels=MAX_PIXELS)
