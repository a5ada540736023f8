"""Rubbish by the thousand: to a real server through its socket, and to what looks at pictures before a job is queued.

Everything has to be refused for what it is or to be served; nothing may be a defect (INTERNAL, UNKNOWN), end a
process or stay in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.report import Figure, Report
from bench.trust.fuzz_pictures import PictureFindings, fuzz_pictures
from bench.trust.fuzz_requests import RequestFindings, fuzz_requests
from bench.trust.options import Options

REQUEST_GROWTH, PICTURE_GROWTH = 200.0, 200.0
"""MB that a process may hold more after all of it than when it had warmed up: pieces that its allocator keeps."""


def run(options: Options) -> Iterator[Report]:
    """One report for each kind of rubbish."""
    yield report_of_pictures(fuzz_pictures(options.pictures, seed=options.seed), options)
    yield report_of_requests(fuzz_requests(options.requests, seed=options.seed), options)


def report_of_pictures(found: PictureFindings, options: Options) -> Report:
    """Of mutated pictures."""
    about = f"of {options.pictures} mutated pictures"
    figures = (
        Figure(name=f"{about}: defects", goal=0, measured=len(found.defects)),
        Figure(name=f"{about}: crashes", goal=0, measured=found.crashes),
        Figure(name=f"{about}: memory growth (MB)", goal=PICTURE_GROWTH, measured=found.growth / 1e6),
    )
    facts = {"taken": found.taken, "refused": found.refused, "defects": found.defects, "seed": options.seed}
    return Report(name="fuzz-pictures", figures=figures, facts=facts)


def report_of_requests(found: RequestFindings, options: Options) -> Report:
    """Of fuzzed requests."""
    about = f"of {options.requests} fuzzed requests"
    figures = (
        Figure(name=f"{about}: INTERNAL, UNKNOWN and the like", goal=0, measured=len(found.defects)),
        Figure(name=f"{about}: ends of the server or of a worker", goal=0, measured=found.crashes),
        Figure(name=f"{about}: good jobs in between that were not served", goal=0, measured=found.unserved),
        Figure(name=f"{about}: memory growth (MB)", goal=REQUEST_GROWTH, measured=found.growth / 1e6),
    )
    facts = {"statuses": dict(found.statuses), "defects": found.defects, "seed": options.seed}
    return Report(name="fuzz-requests", figures=figures, facts=facts)
