"""How fast a worker's device is, found out in under a second when the worker starts."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from intarsia_server.engine.cancel import never
from intarsia_server.engine.capabilities import torch_dtype
from intarsia_server.engine.cost.speed import Point, Speedometer
from intarsia_server.engine.cost.work import job_work
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.images import Pixels, decode_rgb, encode, resize
from intarsia_server.engine.inputs import decode_inputs
from intarsia_server.engine.parameters import MaskedGramParameters
from intarsia_server.engine.request import (
    ImageFormat,
    LabelMapSource,
    Optimization,
    Optimizer,
    Output,
    Precision,
    Segment,
    Start,
    TransferRequest,
)
from intarsia_server.engine.transfer import transfer
from intarsia_server.executors.stopwatch import Stopwatch

SIDES = {"cpu": (64, 128), "cuda": (256, 1024)}
"""Of the square pictures, in pixels: one whose steps are mostly overhead, one whose steps are mostly work."""

STEPS = 9
"""Of each; the first does not count. With few, one that met a busy machine would speak for the rest."""

RUNS = 9
"""Of whatever else is timed; the fastest counts."""

DECODED_SIDE = 512


def calibrate(encoder: Encoder, precision: Precision) -> dict[Precision, Speedometer]:
    """Times a few steps of two tiny jobs, and the decoding of a picture.

    Args:
        encoder: the default one.
        precision: its own, in which the jobs run; for the other one a convolution alone is timed in both.

    Returns:
        By precision, all but AUTO.
    """
    points = [_usual_step(encoder, precision, side) for side in SIDES[encoder.device.type]]
    pixel = _pixel_seconds()
    own = _convolution_seconds(encoder.device, precision)
    found = {}
    for other in (Precision.FP32, Precision.BF16):
        factor = 1.0 if other is precision else _convolution_seconds(encoder.device, other) / own
        scaled = [Point(point.flops, point.seconds * factor) for point in points]
        found[other] = Speedometer(scaled, pixel)
    return found


def _usual_step(encoder: Encoder, precision: Precision, side: int) -> Point:
    request = _request(side, precision)
    inputs = decode_inputs(request, max_pixels=side * side)
    stopwatch = Stopwatch()
    for _ in stopwatch.watch(transfer(request, inputs, encoder, cancelled=never)):
        pass
    (point,) = stopwatch.points(job_work(request, (side, side)))
    return point


def _request(side: int, precision: Precision) -> TransferRequest:
    picture = encode(_scene(side), ImageFormat.PNG)
    halves = np.zeros((side, side, 3), dtype=np.uint8)
    halves[:, side // 2 :] = 1
    return TransferRequest(
        content=picture,
        segmentation=LabelMapSource(encode(halves, ImageFormat.PNG)),
        segments=(Segment(labels=(0,), style=picture), Segment(labels=(1,), style=picture)),
        parameters=MaskedGramParameters(steps=STEPS, coarse_steps=0),
        paper=False,
        optimization=Optimization(optimizer=Optimizer.LBFGS, learning_rate=0.02, history=10, start=Start.CONTENT),
        output=Output(size=side, format=ImageFormat.PNG),
        seed=0,
        encoder="",
        precision=precision,
        preview_interval=0,
    )


def _pixel_seconds() -> float:
    """Of each pixel of a picture that is decoded and made smaller."""
    data = encode(_scene(DECODED_SIDE), ImageFormat.PNG)

    def decode() -> None:
        resize(decode_rgb(data, "", max_pixels=DECODED_SIDE**2).pixels, DECODED_SIDE // 2, DECODED_SIDE // 2)

    return _fastest(decode) / DECODED_SIDE**2


def _convolution_seconds(device: torch.device, precision: Precision) -> float:
    """Of a convolution as the encoder has them."""
    generator = torch.Generator().manual_seed(0)
    weight, image = (torch.randn(shape, generator=generator) for shape in ((128, 128, 3, 3), (1, 128, 64, 64)))
    weight, image = (
        tensor.to(device, torch_dtype(precision)).contiguous(memory_format=torch.channels_last)
        for tensor in (weight, image)
    )

    def convolve() -> None:
        float(torch.nn.functional.conv2d(image, weight, padding=1)[0, 0, 0, 0])  # waits for the device

    return _fastest(convolve)


def _fastest(work: Callable[[], None]) -> float:
    """Of some runs, in seconds."""
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _scene(side: int) -> Pixels:
    """Something with the detail of a photograph: noise of every wavelength."""
    generator = np.random.default_rng(0)
    total = np.zeros((side, side, 3))
    size = 4
    while size <= side:
        noise = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BILINEAR)) / size
        size *= 2
    scene: Pixels = (255 * (total - total.min()) / np.ptp(total)).astype(np.uint8)
    return scene
