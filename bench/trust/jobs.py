"""Small jobs of a known outcome, and what is seen of one that is disturbed."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from intarsia import Client, IntarsiaError
from intarsia.v1 import style_transfer_pb2 as pb

from bench.trust.samples import stylize_request

STAGES = {"masked_gram": 1, "blended": 1, "sequential": 3}
"""Of the methods that jobs are made with here."""

START = ("", 0)
"""Before the first step."""


def job_of(method: str, steps: int, *, seed: int = 0, preview_interval: int = 0) -> pb.StylizeRequest:
    """A job of about that many steps, which goes on when nobody watches it."""
    request = stylize_request()
    parameters = getattr(request, method)
    parameters.SetInParent()
    parameters.steps = steps // STAGES[method]
    if method == "sequential":
        parameters.smoothing_steps = parameters.steps
    parameters.coarse_steps = 0
    request.seed = seed
    request.preview_interval = preview_interval
    request.on_disconnect = pb.ON_DISCONNECT_DETACH
    return request


def again(request: pb.StylizeRequest) -> pb.StylizeRequest:
    """The same work as another job."""
    copy = pb.StylizeRequest()
    copy.CopyFrom(request)
    copy.request_id = str(uuid.uuid4())
    return copy


@dataclass
class Seen:
    """What a client has seen of one job.

    Attributes:
        request_id: of the request.
        job_id: the server's name for it; empty if it was never accepted.
        image: the picture; empty if there was none.
        error: what it ended with instead.
        sequences: of the events that were handed on, in order.
        steps: (stage, step) and when it was told, in seconds, in order.
        stages: when each stage was told to begin, in seconds.
        resumed: (stage, step) from which it went on, and how many of `steps` had been told by then.
        completed: how often it was said to be.
    """

    request_id: str
    job_id: str = ""
    image: bytes = b""
    error: str = ""
    sequences: list[int] = field(default_factory=list)
    steps: list[tuple[tuple[str, int], float]] = field(default_factory=list)
    stages: list[float] = field(default_factory=list)
    resumed: list[tuple[tuple[str, int], int]] = field(default_factory=list)
    completed: int = 0

    @property
    def whole(self) -> bool:
        """Whether it has ended once, well, and no event was handed on twice."""
        once = all(earlier < later for earlier, later in pairwise(self.sequences))
        return bool(self.image) and not self.error and self.completed == 1 and once

    @property
    def step_seconds(self) -> Sequence[float]:
        """From each step to the next."""
        return [later - earlier for (_, earlier), (_, later) in pairwise(self.steps)]

    def add(self, event: pb.StylizeResponse) -> None:
        """Takes the next event."""
        at = event.event_time.ToNanoseconds() / 1e9
        if not event.HasField("heartbeat"):
            self.sequences.append(event.sequence)
        match event.WhichOneof("event"):
            case "accepted":
                self.job_id = event.accepted.job_id
            case "stage":
                self.stages.append(at)
            case "progress":
                self.steps.append(((event.progress.stage, event.progress.step), at))
            case "resumed":
                self.resumed.append(((event.resumed.stage, event.resumed.step), len(self.steps)))
            case "completed":
                self.completed += 1


def watch(client: Client, request: pb.StylizeRequest) -> Seen:
    """Runs a job to its end, whatever happens to it."""
    seen = Seen(request.request_id)
    try:
        job = client.start(request)
        for event in job:
            seen.add(event)
        seen.image = job.result().image
    except IntarsiaError as error:
        seen.error = str(error)
    return seen


@dataclass(frozen=True)
class Unbroken:
    """A job that nothing has happened to.

    Attributes:
        request: to be sent `again`.
        image: its picture.
        places: which step each (stage, step) is, from 1; `START` is 0.
        seconds: from its start to its end.
        step_seconds: from each step to the next.
    """

    request: pb.StylizeRequest
    image: bytes
    places: dict[tuple[str, int], int]
    seconds: float
    step_seconds: Sequence[float]

    def redone(self, seen: Seen) -> tuple[int, float]:
        """How many steps a disturbed job was seen to take a second time, and the seconds that the first time took."""
        count, seconds = 0, 0.0
        for place, told in seen.resumed:
            before = seen.steps[:told]
            if not before:
                continue
            last, ended = before[-1]
            began = next((at for step, at in reversed(before) if step == place), seen.stages[0])
            count += self.places[last] - self.places[place]
            seconds += ended - began
        return count, seconds


def unbroken(client: Client, requests: Iterable[pb.StylizeRequest]) -> list[Unbroken]:
    """Runs each job twice: the second time nothing has to be warmed up.

    Raises:
        RuntimeError: one did not succeed, or has not the same bits the second time.
    """
    return [_unbroken(client, request) for request in requests]


def _unbroken(client: Client, request: pb.StylizeRequest) -> Unbroken:
    first, second = (watch(client, again(request)) for _ in range(2))
    if not (first.whole and second.whole and first.image == second.image):
        raise RuntimeError(f"an unbroken job: {first.error or second.error or 'not the same bits twice'}")
    places = {step: number for number, (step, _) in enumerate(second.steps, 1)}
    seconds = second.steps[-1][1] - second.stages[0]
    return Unbroken(request, second.image, {START: 0, **places}, seconds, second.step_seconds)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that so large a share of them does not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * round(100 * share) // 100) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """For a report's facts."""
    return {
        "min": min(values),
        "median": statistics.median(values),
        "p99": percentile(values, 0.99),
        "max": max(values),
    }
