"""A job's pictures at half their working size, for a coarse stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from intarsia_server.engine.images import resize
from intarsia_server.engine.inputs import Inputs
from intarsia_server.engine.request import Segment
from intarsia_server.engine.soft_masks import Weights, dominant, partition
from intarsia_server.engine.style_images import Cover, Half


def at_half_size(inputs: Inputs, segments: Sequence[Segment]) -> Inputs:
    """The same pictures at half the size, rounded down.

    Every segment keeps its share of each pixel, so that the masks are soft and no segment is lost, however thin.

    Args:
        inputs: of the output's size.
        segments: as requested.
    """
    height, width = (side // 2 for side in inputs.labels.shape)
    labels, _ = dominant(_shares(inputs, len(segments), (width, height)), (width, height))
    return replace(
        inputs,
        content=resize(inputs.content, width, height),
        labels=labels,
        masks=partition(_shares(inputs, len(segments), (width, height)), labels, segments),
        styles=inputs.styles.then(Half()),
        covers=inputs.covers.then(Cover(width, height)),
        start=None if inputs.start is None else resize(inputs.start, width, height),
        warnings=(),
    )


def _shares(inputs: Inputs, count: int, size: tuple[int, int]) -> Iterator[tuple[int, Weights]]:
    """Each segment's index and its share of every pixel of that size."""
    for index in range(count):
        mask = inputs.labels == index if inputs.masks is None else inputs.masks[index]
        yield index, np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
