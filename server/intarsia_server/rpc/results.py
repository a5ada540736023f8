"""Pictures on the wire, read from the disk as they are sent: what is in memory is a message of each call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from intarsia.v1 import style_transfer_pb2 as pb

from intarsia_server.jobs.events import Numbered, StoredResultEvent
from intarsia_server.jobs.record import Outcome
from intarsia_server.rpc.responses import to_message, to_result

Read = Callable[[Outcome, int, int], Awaitable[bytes]]
"""Gives that many bytes of a picture from an offset on."""


async def result_messages(
    numbered: Numbered, event: StoredResultEvent, read: Read, *, after: int
) -> AsyncIterator[pb.WatchJobResponse]:
    """The picture whole, or a header and chunks; without the messages that the reader has, up to number `after`."""
    outcome = event.outcome
    if numbered.sequence > after:
        result = to_result(outcome)
        if event.chunks:
            result.chunk_count = event.chunks
        else:
            result.image.data = await read(outcome, 0, outcome.size_bytes)
        yield to_message(numbered.sequence, numbered.time, pb.StylizeResponse(result=result))
    for index in range(max(0, after - numbered.sequence), event.chunks):
        offset = index * outcome.chunk_bytes
        chunk = pb.ResultChunkEvent(index=index, offset=offset)
        chunk.data = await read(outcome, offset, min(outcome.chunk_bytes, outcome.size_bytes - offset))
        response = pb.StylizeResponse(result_chunk=chunk)
        yield to_message(numbered.sequence + 1 + index, numbered.time, response)


async def result_responses(
    outcome: Outcome, read: Read, *, offset: int, chunk_bytes: int
) -> AsyncIterator[pb.GetResultResponse]:
    """The picture from an offset on, in messages of `chunk_bytes` of it; one without data where nothing is left."""
    for place in range(offset, outcome.size_bytes, chunk_bytes) or [offset]:
        data = await read(outcome, place, min(chunk_bytes, outcome.size_bytes - place))
        response = pb.GetResultResponse(offset=place, data=data)
        if place == offset:
            response.result.CopyFrom(to_result(outcome))
        yield response
