"""From an evaluation's encoded pictures to arrays of the result's size. No torch here: the front runs this too."""

from __future__ import annotations

from dataclasses import dataclass

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.events import Warnings
from intarsia_server.engine.images import Pixels, fit_longer_side, resize
from intarsia_server.engine.inputs import Decoder, check_side, check_styles
from intarsia_server.engine.label_finder import NO_TOOLS, Tools
from intarsia_server.engine.request import EvaluationRequest, LabelMapSource
from intarsia_server.engine.segment_finder import SegmentFinder
from intarsia_server.engine.segmentation import LabelMap, resize_labels
from intarsia_server.engine.style_images import OwnProportions, StyleImages

_CONTENT_FIELD = "content.data"
_RESULT_FIELD = "result.data"


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """A request's pictures at the result's size (H, W).

    Attributes:
        result: RGB [H, W, 3].
        content: RGB [H, W, 3].
        labels: segment index of every pixel [H, W]; a small segment may have none at this size.
        styles: per segment the style image in its own proportions, scaled as a transfer would; None for keep.
        warnings: what had to be worked around.
    """

    result: Pixels
    content: Pixels
    labels: LabelMap
    styles: StyleImages
    warnings: Warnings


def check_evaluation_inputs(request: EvaluationRequest, *, max_pixels: int, tools: Tools = NO_TOOLS) -> tuple[int, int]:
    """Decodes every picture once, keeps none, and refuses what cannot be evaluated.

    Returns:
        (width, height) of the result.

    Raises:
        InvalidInputError: whatever is wrong with them, with the field's path.
        CancelledError: as the tools say.
    """
    height, width = decode_evaluation_inputs(request, max_pixels=max_pixels, tools=tools).labels.shape
    return width, height


def decode_evaluation_inputs(
    request: EvaluationRequest, *, max_pixels: int, tools: Tools = NO_TOOLS
) -> EvaluationInputs:
    """Checks as `check_evaluation_inputs` does, and makes the pictures of the result's size.

    Raises:
        InvalidInputError, CancelledError: as `check_evaluation_inputs`.
    """
    decode = Decoder(max_pixels, tools.cancelled, tools.known)
    content = decode(request.content, _CONTENT_FIELD)
    check_side(content, _CONTENT_FIELD)
    finder = SegmentFinder(LabelMapSource(request.label_map), request.segments, content, max_pixels=max_pixels)
    found = finder.find((content.shape[1], content.shape[0]), tools)
    result = decode(request.result, _RESULT_FIELD)
    check_side(result, _RESULT_FIELD)
    height, width = result.shape[:2]
    _check_proportions(result, content)
    check_styles(request.segments, width, height, decode)
    return EvaluationInputs(
        result=result,
        content=resize(content, width, height),
        labels=resize_labels(found.labels, len(request.segments), width, height, cancelled=tools.cancelled),
        styles=StyleImages(request.segments, OwnProportions(width, height), max_pixels),
        warnings=(*dict.fromkeys(decode.warnings), *found.warnings),
    )


def _check_proportions(result: Pixels, content: Pixels) -> None:
    """Labels lie where the content image has them: a result of other proportions was cut or stretched."""
    height, width = result.shape[:2]
    expected = fit_longer_side(content.shape[1], content.shape[0], max(width, height))
    # A pixel's tolerance, as other programs may round the shorter side differently.
    if max(abs(width - expected[0]), abs(height - expected[1])) > 1:
        raise InvalidInputError(
            _RESULT_FIELD,
            f"is {width}x{height} pixels; with the content image's proportions it would be {expected[0]}x{expected[1]}",
        )
