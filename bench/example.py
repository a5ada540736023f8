"""The shipped example as a job, the encoder that it runs on, and the machine."""

from __future__ import annotations

import functools
import io
import os
from typing import Any

import torch
from intarsia.request import build_request
from intarsia.v1 import style_transfer_pb2 as pb
from intarsia_server.engine.capabilities import describe_device, resolve_precision, torch_dtype
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.request import Precision, TransferRequest
from intarsia_server.engine.weights import EMBEDDED, ConvolutionWeights, load_weights
from intarsia_server.rpc.requests import to_transfer_request
from PIL import Image

from bench.maps import hard_masks
from bench.options import ROOT

CPU = torch.device("cpu")
MAX_PIXELS = 2**26
STYLES = ("brush", "glass", "ink")


def example_message(size: int, *, segments: int = len(STYLES), **options: Any) -> pb.StylizeRequest:
    """The example as a client sends it.

    Args:
        size: the result's longer side in pixels.
        segments: 3 are the example's own; any other number is a synthetic label map, the styles in turn.
        options: more of `build_request`, or in place of the example's own; without any, the product's defaults.
    """
    folder = ROOT / "examples"
    values: dict[str, Any] = {
        "content": folder / "content.png",
        "labels": folder / "labels.png" if segments == len(STYLES) else _label_map(segments),
        "styles": {label: folder / "styles" / f"{STYLES[label % len(STYLES)]}.png" for label in range(segments)},
        "size": size,
        **options,
    }
    return build_request(**values)


def example_request(size: int, *, segments: int = len(STYLES), **options: Any) -> TransferRequest:
    """The same as the engine takes it."""
    return engine_request(example_message(size, segments=segments, **options))


def engine_request(message: pb.StylizeRequest) -> TransferRequest:
    """A client's request as the service hands it to the engine."""
    return to_transfer_request(message, default_encoder=EMBEDDED, encoders=(EMBEDDED,))


@functools.cache
def example_weights() -> ConvolutionWeights:
    """The embedded encoder's, of which all sides' networks are made."""
    return load_weights(EMBEDDED)


def new_encoder(request: TransferRequest) -> Encoder:
    """The encoder that a worker would load for a request, made anew, so that nothing is found in its caches."""
    precision = resolve_precision(request.precision, CPU)
    return Encoder(example_weights(), device=CPU, precision=torch_dtype(precision))


def default_precision() -> Precision:
    """What the product takes on this machine."""
    return resolve_precision(Precision.AUTO, CPU)


def machine() -> dict[str, object]:
    """What the timings depend on; the load before the run tells how far to trust them."""
    return {
        "cpu": describe_device(CPU).description,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
    }


def _label_map(segments: int) -> bytes:
    with Image.open(ROOT / "examples" / "content.png") as content:
        width, height = content.size
    labels = hard_masks(segments, height, width, CPU).argmax(0).to(torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(labels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()
