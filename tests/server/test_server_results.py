"""Results: the same again for the same request, in every format, with their parameters, and in chunks."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia.v1.style_transfer_pb2_grpc import StyleTransferServiceStub
from intarsia_server.engine.parameters import SequentialSmoothParameters
from server_jobs import run_job, tiny_request


@pytest.mark.parametrize("precision", [pb.PRECISION_UNSPECIFIED, pb.PRECISION_FP32, pb.PRECISION_BF16])
@pytest.mark.parametrize("start", [pb.START_UNSPECIFIED, pb.START_NOISE])
def test_same_request_gives_the_same_bytes(
    stub: StyleTransferServiceStub, precision: pb.Precision.ValueType, start: pb.Start.ValueType
) -> None:
    request = tiny_request(steps=4)
    request.precision = precision
    request.optimization.start = start
    request.seed = 7
    first, second = run_job(stub, request), run_job(stub, request)
    assert first.image == second.image
    assert [list(a.losses) for a in first.of("progress")] == [list(b.losses) for b in second.of("progress")]


def test_seed_changes_a_noise_start_only(stub: StyleTransferServiceStub) -> None:
    def pixels(seed: int, start: pb.Start.ValueType) -> bytes:
        request = tiny_request(steps=1)
        request.optimization.start = start
        request.seed = seed
        return pictures.opened(run_job(stub, request).image).tobytes()

    assert pixels(1, pb.START_NOISE) != pixels(2, pb.START_NOISE)
    assert pixels(2**64 - 1, pb.START_NOISE) != pixels(1, pb.START_NOISE)
    assert pixels(1, pb.START_CONTENT) == pixels(2, pb.START_CONTENT)


def test_optimizers_and_starts_give_different_pictures(stub: StyleTransferServiceStub) -> None:
    images = set()
    for optimizer in (pb.OPTIMIZER_LBFGS, pb.OPTIMIZER_ADAM):
        for start in (pb.START_CONTENT, pb.START_PALETTE, pb.START_IMAGE):
            request = tiny_request(steps=2)
            request.optimization.optimizer = optimizer
            request.optimization.start = start
            if start == pb.START_IMAGE:
                request.optimization.start_image.data = pictures.style("ink")
            images.add(pictures.opened(run_job(stub, request).image).tobytes())
    assert len(images) == 6


def test_png_carries_everything_needed_to_make_it_again(stub: StyleTransferServiceStub) -> None:
    request = tiny_request("sequential_smooth", border_radius=4.0)
    request.seed = 2**53 + 1
    request.segments[1].style_weight = 2.5
    request.optimization.optimizer = pb.OPTIMIZER_ADAM
    text = pictures.opened(run_job(stub, request).image).text  # type: ignore[attr-defined]  # PngImageFile has it
    parameters = json.loads(text["intarsia"])
    assert parameters["method"] == "sequential-smooth"
    assert parameters["paper"] is False
    assert parameters["seed"] == 2**53 + 1
    used = SequentialSmoothParameters(steps=2, smoothing_steps=3, border_steps=2, border_radius=4.0)
    assert parameters["parameters"] == asdict(used)
    assert parameters["optimization"]["optimizer"] == "adam"
    assert parameters["optimization"]["start"] == "palette"
    assert parameters["encoder"] == "embedded"
    assert parameters["precision"] in {"fp32", "bf16"}
    assert [segment["labels"] for segment in parameters["segments"]] == [[0], [1], [2]]
    assert [segment["style_weight"] for segment in parameters["segments"]] == [1.0, 2.5, 1.0]
    assert {"intarsia", "torch", "python"} <= set(parameters["versions"])
    assert text["Software"].startswith("intarsia ")


@pytest.mark.parametrize(
    ("image_format", "name"), [(pb.IMAGE_FORMAT_JPEG, "JPEG"), (pb.IMAGE_FORMAT_WEBP, "WEBP")], ids=["jpeg", "webp"]
)
def test_other_formats(stub: StyleTransferServiceStub, image_format: pb.ImageFormat.ValueType, name: str) -> None:
    sizes = []
    for quality in (10, 95):
        request = tiny_request(steps=1)
        request.output.format = image_format
        request.output.quality = quality
        outcome = run_job(stub, request)
        assert outcome.result.format == image_format
        assert pictures.opened(outcome.image).format == name
        sizes.append(len(outcome.image))
    assert sizes[0] < sizes[1]


def test_output_size_is_the_longer_side(stub: StyleTransferServiceStub) -> None:
    request = tiny_request(steps=1)
    request.output.size = 120
    outcome = run_job(stub, request)
    assert (outcome.of("accepted")[0].width, outcome.of("accepted")[0].height) == (120, 80)
    assert pictures.opened(outcome.image).size == (120, 80)


def test_kept_segments_come_out_to_the_bit(stub: StyleTransferServiceStub) -> None:
    request = tiny_request(steps=2)
    request.segments[0].keep = True
    request.optimization.start = pb.START_NOISE
    image = np.asarray(pictures.opened(run_job(stub, request).image))
    original = np.asarray(pictures.opened(pictures.content()))
    kept = np.asarray(pictures.example("labels.png")) == 0
    assert (image[kept] == original[kept]).all()
    assert (image[~kept] != original[~kept]).any(axis=1).mean() > 0.9


def test_one_segment_may_have_several_labels(stub: StyleTransferServiceStub) -> None:
    request = tiny_request(steps=1)
    request.segments[0].labels.append(2)
    del request.segments[2]
    outcome = run_job(stub, request)
    assert {x.segment for x in outcome.of("progress")[0].losses if x.name == "style"} == {0, 1}


def test_chunks_make_up_the_result(narrow: StyleTransferServiceStub, stub: StyleTransferServiceStub) -> None:
    outcome = run_job(narrow, tiny_request(steps=1))
    result, chunks = outcome.result, outcome.of("result_chunk")
    assert not result.image.data
    assert result.chunk_count == len(chunks) == -(-result.size_bytes // 1024)
    assert len(chunks) > 1
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.offset for chunk in chunks] == [1024 * index for index in range(len(chunks))]
    assert all(len(chunk.data) == 1024 for chunk in chunks[:-1])
    numbers = [response.sequence for response in outcome.responses if not response.HasField("heartbeat")]
    assert numbers == list(range(1, len(numbers) + 1))
    kinds = [kind for kind in outcome.kinds if kind != "heartbeat"]
    assert kinds[-len(chunks) - 2 :] == ["result", *["result_chunk"] * len(chunks), "completed"]
    assert outcome.image == run_job(stub, tiny_request(steps=1)).image
