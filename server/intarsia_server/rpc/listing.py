"""What a ListJobsRequest asks for."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from intarsia.v1 import style_transfer_pb2 as pb

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.engine.parameters import check_range
from intarsia_server.jobs.record import JobRecord, JobState
from intarsia_server.rpc.requests import refuse_unknown_fields
from intarsia_server.rpc.responses import STATES

DEFAULT_SIZE = 100
MAX_SIZE = 1000

_STATES = {number: state for state, number in STATES.items()}


@dataclass(frozen=True)
class Page:
    """Jobs older than number `before` (None: the newest), at most `size`, in one of the states (none: in any)."""

    before: int | None
    size: int
    states: Collection[JobState]

    def token_after(self, records: Sequence[JobRecord]) -> str:
        """Of the page that follows these jobs; empty if there is none."""
        return str(records[-1].number) if len(records) == self.size else ""


def to_page(request: pb.ListJobsRequest) -> Page:
    """Checks and converts.

    Raises:
        InvalidInputError: with the field's path.
    """
    refuse_unknown_fields(request)
    size = check_range("page_size", request.page_size or DEFAULT_SIZE, 1, MAX_SIZE)
    before = None
    if request.page_token:
        if not (request.page_token.isascii() and request.page_token.isdigit() and len(request.page_token) < 19):
            raise InvalidInputError("page_token", "is none of this server's")
        before = int(request.page_token)
    check_range("states", len(request.states), 0, len(_STATES))
    states = set()
    for index, number in enumerate(request.states):
        if number not in _STATES:
            raise InvalidInputError(f"states[{index}]", f"has the unknown value {number}")
        states.add(_STATES[number])
    return Page(before, size, states)
