"""The engine as the worker process runs it, without the service around it."""

from __future__ import annotations

from collections.abc import Iterator

from intarsia_server.engine.cancel import never
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.events import StepDone
from intarsia_server.engine.images import Pixels, encode
from intarsia_server.engine.inputs import Inputs, decode_inputs
from intarsia_server.engine.request import TransferRequest
from intarsia_server.engine.transfer import transfer

from bench.clock import Move
from bench.example import MAX_PIXELS


def steps(request: TransferRequest, inputs: Inputs, encoder: Encoder) -> Iterator[StepDone]:
    """A job's steps, optimiser included."""
    events = transfer(request, inputs, encoder, cancelled=never)
    return (event for event in events if isinstance(event, StepDone))


def moves(request: TransferRequest, encoder: Encoder) -> Iterator[Move]:
    """A job's steps from its encoded pictures on, to be judged."""
    inputs = decode_inputs(request, max_pixels=MAX_PIXELS)
    for event in steps(request, inputs, encoder):
        yield Move(event.total, event.exact())


def run(request: TransferRequest, encoder: Encoder) -> bytes:
    """A whole job, from encoded pictures to an encoded picture."""
    events = transfer(request, decode_inputs(request, max_pixels=MAX_PIXELS), encoder, cancelled=never)
    while True:
        try:
            next(events)
        except StopIteration as stop:
            pixels: Pixels = stop.value
            return encode(pixels, request.output.format)
