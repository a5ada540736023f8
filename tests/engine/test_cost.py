"""The model's arithmetic against cases counted by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from intarsia_server.engine.cost.estimate import estimate_job
from intarsia_server.engine.cost.memory import ENCODER_WEIGHTS, LOADED, LOADING, SPREAD, peak_memory
from intarsia_server.engine.cost.speed import Speed
from intarsia_server.engine.cost.work import (
    depth,
    forward_flops,
    gram_flops,
    job_work,
    layer_pixels,
    layers_of,
    step_flops,
    style_pixels,
)
from intarsia_server.engine.images import encode
from intarsia_server.engine.methods import Stage, TotalVariation
from intarsia_server.engine.parameters import (
    BlendedParameters,
    GatysParameters,
    MaskedGramParameters,
    SequentialParameters,
    SingleShotParameters,
)
from intarsia_server.engine.request import (
    Automatic,
    Box,
    Boxes,
    ImageFormat,
    LabelMapSource,
    Optimization,
    Optimizer,
    Output,
    Precision,
    Scribbles,
    Segment,
    SegmentationModel,
    Start,
    TransferRequest,
)
from intarsia_server.engine.vgg import STYLE_LAYERS
from intarsia_server.engine.weights import load_weights
from pictures import gradient

SIZE = (128, 64)
PIXELS = 128 * 64
PICTURE = encode(gradient(64, 128), ImageFormat.PNG)
BF16 = Speed(seconds_per_step=0.5, seconds_per_flop=1e-12, seconds_per_pixel=1e-7)
FP32 = Speed(seconds_per_step=1.0, seconds_per_flop=2e-12, seconds_per_pixel=1e-7)


def job(**changes: Any) -> TransferRequest:
    request = TransferRequest(
        content=PICTURE,
        segmentation=LabelMapSource(PICTURE),
        segments=(Segment(labels=(0,), style=PICTURE), Segment(labels=(1,), style=PICTURE)),
        parameters=GatysParameters(),
        paper=False,
        optimization=Optimization(
            optimizer=Optimizer.ADAM, learning_rate=0.02, history=10, start=Start.CONTENT, start_image=None
        ),
        output=Output(),
        seed=0,
        encoder="embedded",
        precision=Precision.AUTO,
        preview_interval=0,
    )
    return replace(request, **changes)


def vectors(count: int, pixels: int = PIXELS) -> float:
    """Float32 images moved, at 30 operations a byte."""
    return 30.0 * count * 12 * pixels


def test_pooling_rounds_down() -> None:
    assert [layer_pixels(block, (99, 50)) for block in (1, 2, 3, 4, 5)] == [4950, 49 * 25, 24 * 12, 12 * 6, 6 * 3]


def test_forward_pass() -> None:
    """Two operations for each weight of a 3x3 kernel at each pixel."""
    first = 2 * 9 * 3 * 64 * PIXELS
    assert depth({"relu1_1"}) == 1
    assert forward_flops({"relu1_1"}, SIZE) == first
    assert forward_flops({"relu1_1", "relu2_1"}, SIZE) == first + 18 * 64 * 64 * PIXELS + 18 * 64 * 128 * PIXELS / 4
    # To relu5_1: 3456 + 73728 + 36864 + 73728 + 36864 + 3 * 73728 + 36864 + 3 * 73728 + 18432 a pixel.
    assert forward_flops(STYLE_LAYERS, SIZE) == 722_304 * PIXELS
    assert forward_flops((), SIZE) == 0


def test_gram_matrices() -> None:
    """C² multiplications and additions a pixel of each style layer."""
    assert gram_flops(SIZE) == 2 * PIXELS * (64**2 + 128**2 / 4 + 256**2 / 16 + 512**2 / 64 + 512**2 / 256)


def test_a_step_is_one_pass_forward_and_one_back() -> None:
    stage = job_work(job(), SIZE).stages[0]
    expected = 2 * 722_304 * PIXELS + 2 * gram_flops(SIZE) + vectors(12 + 10)
    assert stage.step_flops == pytest.approx(expected)
    assert stage.stage.steps == 25


def test_capped_gradients_take_a_pass_back_for_each_segment() -> None:
    parameters = MaskedGramParameters(coarse_steps=0, capped_gradients=True)
    capped = job_work(job(parameters=parameters), SIZE).stages[0].step_flops
    plain = job_work(job(parameters=replace(parameters, capped_gradients=False)), SIZE).stages[0].step_flops
    # One for the content loss too.
    assert capped - plain == 2 * 722_304 * PIXELS


def test_lbfgs_moves_its_history() -> None:
    adam = job_work(job(), SIZE).stages[0].step_flops
    lbfgs = replace(job().optimization, optimizer=Optimizer.LBFGS)
    assert job_work(job(optimization=lbfgs), SIZE).stages[0].step_flops - adam == pytest.approx(vectors(14 * 10))
    few = job(optimization=lbfgs, parameters=GatysParameters(steps=3))
    assert job_work(few, SIZE).stages[0].step_flops - adam == pytest.approx(vectors(14 * 3))


def test_half_size_costs_a_quarter() -> None:
    coarse, fine = job_work(job(parameters=MaskedGramParameters()), (256, 128)).stages
    assert (coarse.stage.name, coarse.stage.steps, fine.stage.steps) == ("coarse", 10, 50)
    assert 4 * coarse.step_flops == fine.step_flops
    assert 4 * coarse.build_flops == fine.build_flops


def test_targets() -> None:
    """The content's features and a pass over each style image, as large as the output but for its scale."""
    once = forward_flops(STYLE_LAYERS, SIZE) + gram_flops(SIZE)
    content = forward_flops({"relu4_2"}, SIZE)
    request = job(parameters=MaskedGramParameters(coarse_steps=0))
    assert job_work(request, SIZE).stages[0].build_flops == pytest.approx(content + 2 * once)
    first, second = request.segments
    scaled = replace(request, segments=(first, replace(second, style_scale=2.0)))
    assert style_pixels(scaled, 1, SIZE) == 4 * PIXELS
    assert job_work(scaled, SIZE).stages[0].build_flops == pytest.approx(content + 5 * once)
    assert style_pixels(replace(scaled, paper=True), 1, SIZE) == PIXELS


def test_a_style_is_seen_once() -> None:
    """Smoothing takes the background's style, whose targets are there already; the surrogate is one picture."""
    content = forward_flops({"relu4_2"}, SIZE)
    once = forward_flops(STYLE_LAYERS, SIZE) + gram_flops(SIZE)
    work = job_work(job(parameters=SequentialParameters()), SIZE)
    assert [stage.build_flops for stage in work.stages] == pytest.approx([content + once, content + once, 0])
    single = job_work(job(parameters=SingleShotParameters()), SIZE).stages[0].build_flops
    assert single == pytest.approx(content + once + forward_flops({"relu1_1"}, SIZE))


def test_a_stage_without_encoder_is_its_vectors() -> None:
    stage = Stage(name="smoothing", steps=2, losses=(TotalVariation(weight=1.0),))
    assert layers_of(stage.losses) == frozenset()
    assert step_flops(stage, job(), SIZE) == pytest.approx(vectors(12 + 10))


def test_a_share_of_the_picture() -> None:
    request = job(parameters=SequentialParameters())
    whole = job_work(request, SIZE).stages
    part = job_work(request, SIZE, {"segment 1": 0.25}).stages
    assert part[0] == whole[0]
    assert part[1].step_flops == whole[1].step_flops / 4
    # The style image is not cut, the content is.
    content = forward_flops({"relu4_2"}, SIZE)
    assert whole[1].build_flops - part[1].build_flops == pytest.approx(0.75 * content)


def test_what_is_done_to_pictures() -> None:
    plain = job_work(job(), SIZE)
    jpeg = job_work(job(output=Output(format=ImageFormat.JPEG)), SIZE)
    assert jpeg.pixels < plain.pixels
    assert plain.flops == 0
    boxes = job_work(job(segmentation=Boxes((Box(1, 10, 10, 60, 60),))), SIZE)
    marks = job_work(job(segmentation=Scribbles(PICTURE)), SIZE)
    assert marks.pixels > boxes.pixels > 10 * plain.pixels
    network = job_work(job(segmentation=Automatic(SegmentationModel.FCN_RESNET101)), SIZE)
    assert network.flops > 1e11
    # Feathering averages over rows and columns: about twice the work a pixel at twice the width.
    wide, narrow = (
        job_work(job(parameters=BlendedParameters(feather=feather, coarse_steps=0)), SIZE).stages[0].build_pixels
        for feather in (64.0, 32.0)
    )
    assert 1.4 < wide / narrow < 2


def estimate(request: TransferRequest, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "speeds": {Precision.BF16: BF16, Precision.FP32: FP32},
        "default_precision": Precision.BF16,
        "default_encoder": "embedded",
    }
    return estimate_job(request, SIZE, **(given | changes))


def test_seconds() -> None:
    found = estimate(job())
    work = job_work(job(), SIZE)
    (stage,) = found.stages
    assert (stage.name, stage.steps) == ("vanilla", 25)
    build = work.stages[0].build_flops * 1e-12 + work.stages[0].build_pixels * 1e-7
    assert stage.seconds == pytest.approx(build + 25 * (0.5 + work.stages[0].step_flops * 1e-12))
    assert found.preparation_seconds == pytest.approx(work.pixels * 1e-7)
    assert found.seconds == found.preparation_seconds + stage.seconds


def test_automatic_precision_is_the_devices() -> None:
    assert estimate(job()) == estimate(job(precision=Precision.BF16))
    slow = estimate(job(precision=Precision.FP32))
    assert slow.seconds > 1.9 * estimate(job()).seconds
    assert estimate(job(), default_precision=Precision.FP32).seconds == slow.seconds


def memory(request: TransferRequest, size: tuple[int, int] = (600, 400), **changes: Any) -> int:
    return peak_memory(request, size, **({"precision": Precision.BF16, "loaded": True} | changes))


def test_the_weights_of_an_encoder_that_is_not_loaded() -> None:
    assert sum(weight.numel() + bias.numel() for weight, bias in load_weights("embedded")) == ENCODER_WEIGHTS
    assert memory(job(), loaded=False) - memory(job()) == pytest.approx(2 * LOADED * ENCODER_WEIGHTS)
    # A small picture takes less than the loading itself.
    assert LOADING * 4 * ENCODER_WEIGHTS < memory(job(), SIZE, loaded=False) < (LOADING + 1) * 4 * ENCODER_WEIGHTS
    assert estimate(job(encoder="mine")).memory_bytes == memory(job(), SIZE, loaded=False)


def test_memory_grows_with_what_is_held() -> None:
    """Pixels, precision, history, segments."""
    plain = memory(job())
    assert memory(job(), (1200, 800)) == pytest.approx(4 * plain, rel=0.1)
    assert 1.2 * plain < memory(job(), precision=Precision.FP32) < 2 * plain
    lbfgs = replace(job().optimization, optimizer=Optimizer.LBFGS)
    assert memory(job(optimization=lbfgs)) - plain == pytest.approx(SPREAD * 2 * 10 * 600 * 400 * 12, abs=1)
    many = tuple(Segment(labels=(label,), style=PICTURE) for label in range(64))
    # Those of the coarse stage are there from start to end; at full size they are made of the label map.
    assert memory(job(segments=many)) - plain >= 62 * 300 * 200 * 4


def test_a_window_takes_less() -> None:
    """Where the stage with the window is the one that takes the most."""
    request = job(parameters=SequentialParameters())
    whole = memory(request)
    assert memory(request, areas={"vanilla": 0.5, "segment 1": 0.5}) < whole
    assert memory(request, areas={"segment 1": 0.5}) == whole


def test_capped_gradients_hold_those_of_every_segment() -> None:
    parameters = MaskedGramParameters(coarse_steps=0)
    capped = memory(job(parameters=replace(parameters, capped_gradients=True)))
    # 64 + 128/4 + 256/16 + 512/64 + 512/256 numbers of two bytes a pixel for the second segment.
    assert capped - memory(job(parameters=parameters)) == pytest.approx(SPREAD * 2 * 122 * 600 * 400, rel=0.01)


def test_a_large_style_image_takes_the_most() -> None:
    first, second = job().segments
    scaled = job(segments=(replace(first, style_scale=4.0), second))
    assert memory(scaled) > 3 * memory(job())


def test_a_large_picture_for_a_small_result() -> None:
    large = encode(gradient(3000, 4000), ImageFormat.JPEG)
    assert memory(job(content=large), (128, 96)) > 4000 * 3000 * 9
