"""A server's later jobs find the style targets of its earlier ones, and say so."""

from __future__ import annotations

from collections.abc import Callable

import server_pictures as pictures
from intarsia.v1 import style_transfer_pb2 as pb
from server_jobs import Outcome, run_job, tiny_request
from server_process import ServerProcess


def counts(outcome: Outcome) -> tuple[int, int]:
    """All style targets, and those from the cache."""
    (completed,) = outcome.of("completed")
    assert isinstance(completed, pb.CompletedEvent)
    return sum(stage.targets for stage in completed.stages), sum(stage.cached_targets for stage in completed.stages)


def test_second_job_reports_hits(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    server.wait_until_ready()
    with server.stub() as stub:
        first = run_job(stub, tiny_request("blended"))
        second = run_job(stub, tiny_request("blended"))
        other_style = tiny_request("masked_gram")
        other_style.segments[0].style.data = pictures.flat("teal")
        third = run_job(stub, other_style)
        fourth = run_job(stub, other_style)
    assert counts(first) == (3, 0)
    assert counts(second) == (3, 3)
    assert first.image == second.image
    assert counts(third) == (3, 0), "masked-gram leaves the palettes as they are, blended does not"
    assert counts(fourth) == (3, 3)


def test_a_cache_of_size_0_is_none(start_server: Callable[..., ServerProcess]) -> None:
    server = start_server(target_cache_mib=0)
    server.wait_until_ready()
    with server.stub() as stub:
        first = run_job(stub, tiny_request("sequential"))
        second = run_job(stub, tiny_request("sequential"))
    assert counts(first) == counts(second) == (3, 0)
    assert first.image == second.image
