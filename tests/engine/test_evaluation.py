"""The figures against the eye: a hard paste, the same with blurred borders, and a blend, made by the real engine."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import example_scene
import numpy as np
import pytest
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.errors import CancelledError, InvalidInputError
from intarsia_server.engine.evaluation.evaluate import evaluate
from intarsia_server.engine.evaluation.inputs import check_evaluation_inputs, decode_evaluation_inputs
from intarsia_server.engine.figures import Evaluation
from intarsia_server.engine.masks import border_map
from intarsia_server.engine.request import EvaluationRequest, LabelMapSource, Start, TransferRequest
from intarsia_server.engine.transfer import transfer
from PIL import Image, ImageFilter

SIZE = (128, 96)
STEPS = 15


def evaluation_request(result: np.ndarray, *, size: tuple[int, int] = SIZE, **scene: Any) -> EvaluationRequest:
    """A picture made of the example, with the example; `scene` as of `example_scene.request`."""
    made = example_scene.request("gatys", size=size, **scene)
    assert isinstance(made.segmentation, LabelMapSource)
    return EvaluationRequest(
        content=made.content,
        label_map=made.segmentation.data,
        segments=made.segments,
        result=example_scene.png(result),
        encoder="embedded",
    )


def judged(request: EvaluationRequest, encoder: Encoder) -> Evaluation:
    inputs = decode_evaluation_inputs(request, max_pixels=example_scene.MAX_PIXELS)
    return evaluate(inputs, encoder, cancelled=lambda: False)


def transferred(request: TransferRequest, encoder: Encoder) -> np.ndarray:
    steps = transfer(request, example_scene.inputs(request), encoder, cancelled=lambda: False)
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            pixels: np.ndarray = stop.value
            return pixels


def hard_paste(encoder: Encoder) -> np.ndarray:
    """Three transfers of the whole picture, one in each style, cut along the borders and put side by side."""
    whole = [
        transferred(
            example_scene.request("gatys", {"steps": STEPS, "background": index}, size=SIZE, start=Start.PALETTE),
            encoder,
        )
        for index in range(3)
    ]
    return np.choose(example_scene.labels(*SIZE)[..., None], whole).astype(np.uint8)


def blurred_borders(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Blurred within a few pixels of the borders, and as it was elsewhere."""
    near = border_map(example_scene.labels(*SIZE).astype(np.int32), 4 * sigma).numpy()
    weight = np.clip(2 * near, 0, 1)[..., None]
    soft = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))
    return (soft * weight + pixels * (1 - weight)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(encoder: Encoder) -> Mapping[str, np.ndarray]:
    paste = hard_paste(encoder)
    blended = example_scene.request("blended", {"steps": STEPS}, size=SIZE, start=Start.PALETTE)
    return {
        "content": example_scene.content(*SIZE),
        "paste": paste,
        "blurred": blurred_borders(paste, 1.5),
        "smeared": blurred_borders(paste, 3),
        "blended": transferred(blended, encoder),
    }


@pytest.fixture(scope="module")
def figures(pictures: Mapping[str, np.ndarray], encoder: Encoder) -> Mapping[str, Evaluation]:
    return {name: judged(evaluation_request(pixels), encoder) for name, pixels in pictures.items()}


def seam_of(evaluation: Evaluation) -> float:
    assert evaluation.seam is not None
    return evaluation.seam.value


def number(value: float | None) -> float:
    assert value is not None
    return value


def test_seam_ranks_as_the_eye_does(figures: Mapping[str, Evaluation]) -> None:
    paste, blurred, smeared, blended = (seam_of(figures[n]) for n in ("paste", "blurred", "smeared", "blended"))
    assert paste > 1.2 * blurred
    assert blurred > 1.2 * blended
    assert smeared > 1.2 * blended


@pytest.mark.parametrize("sigma", [0.6, 0.8, 1.0, 1.2, 2.0])
def test_no_blur_has_the_blends_seam(
    sigma: float, pictures: Mapping[str, np.ndarray], figures: Mapping[str, Evaluation], encoder: Encoder
) -> None:
    blurred = judged(evaluation_request(blurred_borders(pictures["paste"], sigma)), encoder)
    assert seam_of(blurred) > seam_of(figures["blended"])


def test_transition_ranks_as_the_eye_does(figures: Mapping[str, Evaluation]) -> None:
    paste, blurred, smeared, blended = (
        number(figures[n].transition) for n in ("paste", "blurred", "smeared", "blended")
    )
    assert paste > 1.2 * blurred
    assert blurred > 1.2 * smeared
    assert smeared > 1.2 * blended
    assert 0.8 < paste < 1.6
    assert blended < 0.5


def test_palette_ranks_as_the_eye_does(figures: Mapping[str, Evaluation]) -> None:
    paste, blurred, blended = (number(figures[n].palette) for n in ("paste", "blurred", "blended"))
    assert paste > blurred > 1.5 * blended


def test_blur_pays_elsewhere(figures: Mapping[str, Evaluation]) -> None:
    """What a blur gains at the borders, it loses in style and in structure."""
    paste, blurred, smeared, blended = (figures[n] for n in ("paste", "blurred", "smeared", "blended"))
    assert paste.structure > blurred.structure > smeared.structure
    assert number(smeared.style_margin) > number(paste.style_margin)
    assert number(blurred.style_margin) > number(blended.style_margin)


def test_every_style_is_recognised(figures: Mapping[str, Evaluation]) -> None:
    for name in ("paste", "blended"):
        assert all(number(margin.margin) < 1 for margin in figures[name].margins)
    assert number(figures["content"].style_margin) > 0.95


def test_the_content_image_itself(figures: Mapping[str, Evaluation]) -> None:
    found = figures["content"]
    assert found.content == 0
    assert found.structure == pytest.approx(1, abs=1e-4)
    assert found.seam == found.content_seam
    assert (found.width, found.height) == SIZE
    assert sum(margin.area for margin in found.margins) == pytest.approx(1)
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_kept_segment_counts_for_the_seam_alone(pictures: Mapping[str, np.ndarray], encoder: Encoder) -> None:
    found = judged(evaluation_request(pictures["paste"], segments=({"style": None}, {}, {})), encoder)
    assert [margin.segment for margin in found.margins] == [1, 2]
    assert [(border.first, border.second) for border in found.borders] == [(1, 2)]
    assert seam_of(found) > 1.5


def test_one_style_alone(pictures: Mapping[str, np.ndarray], encoder: Encoder) -> None:
    """No other style to be nearer to, and no border that is not a kept segment's."""
    kept: Mapping[str, Any] = {"style": None}
    found = judged(evaluation_request(pictures["paste"], segments=({}, kept, kept)), encoder)
    assert (found.style_margin, found.transition, found.palette, found.borders) == (None, None, None, ())
    assert [(margin.margin, margin.nearest) for margin in found.margins] == [(None, None)]
    assert found.seam is not None


def test_one_segment_alone(pictures: Mapping[str, np.ndarray], encoder: Encoder) -> None:
    request = evaluation_request(pictures["paste"])
    alone = replace(
        request,
        label_map=example_scene.png(np.zeros(SIZE[::-1], np.uint8)),
        segments=request.segments[:1],
    )
    found = judged(alone, encoder)
    assert (found.seam, found.content_seam, found.style_margin, found.transition, found.palette) == (None,) * 5
    assert found.borders == ()
    assert found.content > 0


@pytest.mark.parametrize("width", [1, 2, 8])
def test_thin_and_tiny_segments(width: int, pictures: Mapping[str, np.ndarray], encoder: Encoder) -> None:
    """A line, and an island of a thousandth of the picture or less."""
    labels = np.zeros(SIZE[::-1], np.uint8)
    labels[:, 60 : 60 + width] = 1
    labels[5:8, 20:24] = 2
    found = judged(evaluation_request(pictures["paste"], label_map=labels), encoder)
    values = [found.content, found.structure, found.style_margin, found.transition, found.palette]
    values += [margin.margin for margin in found.margins] + [margin.distance for margin in found.margins]
    values += [value for border in found.borders for value in (*border.curve, border.jump, border.palette)]
    assert all(np.isfinite(value) for value in values if value is not None)


def test_a_style_of_two_segments_is_encoded_once(
    pictures: Mapping[str, np.ndarray], encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is at two scales; the result and the content image are a pass each."""
    passes: list[object] = []
    forward = Encoder.__call__
    monkeypatch.setattr(Encoder, "__call__", lambda *given: (passes.append(given[0]), forward(*given))[1])
    own = {"style": example_scene.style("brush", 256)}
    counts = []
    for second in ({}, own, own | {"style_scale": 0.5}):
        passes.clear()
        judged(evaluation_request(pictures["paste"], segments=({}, second, {})), encoder)
        counts.append(len(passes))
    assert counts == [5, 4, 5]


def test_what_was_mended_is_said(pictures: Mapping[str, np.ndarray], encoder: Encoder) -> None:
    labels = example_scene.labels(*SIZE).copy()
    labels[3, 3] = 77
    found = judged(evaluation_request(pictures["paste"], label_map=labels), encoder)
    assert [code for code, _ in found.warnings] == ["label_slivers_filled"]
    assert judged(evaluation_request(pictures["paste"]), encoder).warnings == ()


def test_two_segments_in_one_style(pictures: Mapping[str, np.ndarray], encoder: Encoder) -> None:
    """The same style twice is no other style, and there is no way between the two."""
    style = example_scene.style("brush", 256)
    found = judged(evaluation_request(pictures["paste"], segments=({}, {"style": style}, {})), encoder)
    assert found.margins[0].nearest == found.margins[1].nearest == 2
    (between,) = [border for border in found.borders if (border.first, border.second) == (0, 1)]
    assert (between.curve, between.jump, between.palette) == ((), None, None)


def test_a_result_of_another_size(pictures: Mapping[str, np.ndarray], encoder: Encoder) -> None:
    small = np.asarray(Image.fromarray(pictures["blended"]).resize((64, 48)))
    found = judged(evaluation_request(small), encoder)
    assert (found.width, found.height) == (64, 48)
    assert found.content > 0


@pytest.mark.parametrize("size", [(96, 96), (128, 90), (128, 99), (96, 128)])
def test_other_proportions_are_refused(size: tuple[int, int]) -> None:
    request = evaluation_request(example_scene.content(*size))
    with pytest.raises(InvalidInputError, match="proportions") as refused:
        check_evaluation_inputs(request, max_pixels=example_scene.MAX_PIXELS)
    assert refused.value.field == "result.data"


def test_a_pixel_of_rounding_is_not_refused() -> None:
    request = evaluation_request(example_scene.content(128, 95))
    assert check_evaluation_inputs(request, max_pixels=example_scene.MAX_PIXELS) == (128, 95)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"result": b""}, "result.data"),
        ({"result": b"no picture"}, "result.data"),
        ({"result": example_scene.png(example_scene.content(32, 24))}, "result.data"),
        ({"content": b"no picture"}, "content.data"),
        ({"label_map": example_scene.png(example_scene.labels(64, 48))}, "label_map.data"),
    ],
)
def test_bad_pictures_are_refused(changes: Mapping[str, bytes], field: str) -> None:
    request = replace(evaluation_request(example_scene.content(*SIZE)), **changes)
    with pytest.raises(InvalidInputError) as refused:
        check_evaluation_inputs(request, max_pixels=example_scene.MAX_PIXELS)
    assert refused.value.field == field


def test_bad_styles_are_refused() -> None:
    broken = evaluation_request(example_scene.content(*SIZE), segments=({}, {"style": b"no picture"}, {}))
    with pytest.raises(InvalidInputError) as refused:
        check_evaluation_inputs(broken, max_pixels=example_scene.MAX_PIXELS)
    assert refused.value.field == "segments[1].style.data"


def test_a_cancel_ends_it(encoder: Encoder) -> None:
    inputs = decode_evaluation_inputs(
        evaluation_request(example_scene.content(*SIZE)), max_pixels=example_scene.MAX_PIXELS
    )
    with pytest.raises(CancelledError):
        evaluate(inputs, encoder, cancelled=lambda: True)


def test_figures_do_not_depend_on_the_files_format(pictures: Mapping[str, np.ndarray], encoder: Encoder) -> None:
    request = evaluation_request(pictures["blended"])
    buffer = io.BytesIO()
    Image.fromarray(pictures["blended"]).save(buffer, "WEBP", lossless=True)
    assert judged(replace(request, result=buffer.getvalue()), encoder) == judged(request, encoder)
