"""Mutated pictures, at every place that a request has for one. In the process that looks: thousands take minutes."""

from __future__ import annotations

import multiprocessing
import os
import random
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from intarsia.v1 import style_transfer_pb2 as pb
from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.evaluation.inputs import check_evaluation_inputs
from intarsia_server.engine.inputs import check_inputs
from intarsia_server.engine.label_answer import check_segmentation
from intarsia_server.rpc.requests import to_evaluation_request, to_segmentation_request, to_transfer_request

from bench.trust.mutants import mutated_picture
from bench.trust.samples import stylize_request
from bench.trust.server import resident

MAX_PIXELS = 256 * 256
BATCH = 500
ENCODER = "embedded"


@dataclass
class PictureFindings:
    """What became of mutated pictures.

    Attributes:
        taken: good enough for a job.
        refused: with the field's path.
        defects: tracebacks of all that was no refusal, with the seed that brings the picture back.
        crashes: processes that ended.
        growth: bytes that the process held more after the last than after the first batch.
    """

    taken: int = 0
    refused: int = 0
    defects: list[str] = field(default_factory=list)
    crashes: int = 0
    growth: int = 0


def fuzz_pictures(count: int, *, seed: int, batch: int = BATCH) -> PictureFindings:
    """Shows that many mutated pictures to whatever checks them, in another process, which may crash."""
    total, memory = PictureFindings(), list[int]()
    starts = range(0, count, batch)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for start in starts:
            seeds = range(seed + start, seed + min(start + batch, count))
            try:
                found, held = pool.submit(check_batch, seeds).result()
            except BrokenProcessPool:
                total.crashes += 1
                total.defects.append(f"the process ended at a picture of seeds {seeds.start} to {seeds.stop - 1}")
                break
            total.taken += found.taken
            total.refused += found.refused
            total.defects += found.defects
            memory.append(held)
    total.growth = max(memory, default=0) - min(memory[:1], default=0)
    return total


def check_batch(seeds: range) -> tuple[PictureFindings, int]:
    """What becomes of one picture for each seed, and the bytes that this process holds afterwards."""
    found = PictureFindings()
    for seed in seeds:
        try:
            taken = is_taken(random.Random(seed))
        except Exception:
            found.defects.append(f"seed {seed}\n{traceback.format_exc()}")
        else:
            found.taken += taken
            found.refused += not taken
    return found, resident(os.getpid())


def is_taken(chance: random.Random) -> bool:
    """Whether a request with a mutated picture at one of its places could be queued.

    Raises:
        Exception: a defect: it is not refused as bad input.
    """
    place = chance.choice(sorted(PLACES))
    picture = mutated_picture(chance)
    try:
        PLACES[place](picture)
    except InvalidInputError:
        return False
    return True


def _transfer(edit: Callable[[pb.StylizeRequest, bytes], object]) -> Callable[[bytes], object]:
    def check(picture: bytes) -> object:
        message = stylize_request()
        edit(message, picture)
        request = to_transfer_request(message, default_encoder=ENCODER, encoders=(ENCODER,))
        return check_inputs(request, max_pixels=MAX_PIXELS)

    return check


def _content(message: pb.StylizeRequest, picture: bytes) -> None:
    message.content.data = picture


def _label_map(message: pb.StylizeRequest, picture: bytes) -> None:
    message.label_map.data = picture


def _style(message: pb.StylizeRequest, picture: bytes) -> None:
    message.segments[0].style.data = picture


def _start_image(message: pb.StylizeRequest, picture: bytes) -> None:
    message.optimization.start = pb.START_IMAGE
    message.optimization.start_image.data = picture


def _soft_mask(message: pb.StylizeRequest, picture: bytes) -> None:
    masks = [pb.SoftMask(label=0, image=message.label_map), pb.SoftMask(label=1, image=pb.Image(data=picture))]
    message.soft_masks.CopyFrom(pb.SoftMasks(masks=masks))


def _scribbles(message: pb.StylizeRequest, picture: bytes) -> None:
    message.scribbles.image.data = picture


def _segment(picture: bytes) -> object:
    message = pb.SegmentRequest(content=stylize_request().content, label_map=pb.Image(data=picture))
    return check_segmentation(to_segmentation_request(message), max_pixels=MAX_PIXELS)


def _result(picture: bytes) -> object:
    job = stylize_request()
    message = pb.EvaluateRequest(content=job.content, label_map=job.label_map, segments=job.segments)
    message.result.data = picture
    request = to_evaluation_request(message, default_encoder=ENCODER, encoders=(ENCODER,))
    return check_evaluation_inputs(request, max_pixels=MAX_PIXELS)


PLACES: Mapping[str, Callable[[bytes], object]] = {
    "content": _transfer(_content),
    "label map": _transfer(_label_map),
    "style": _transfer(_style),
    "start image": _transfer(_start_image),
    "soft mask": _transfer(_soft_mask),
    "scribbles": _transfer(_scribbles),
    "labels to find": _segment,
    "result to judge": _result,
}
"""Where a request has pictures."""
