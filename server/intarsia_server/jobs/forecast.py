"""What a job will take, as far as that can be told before it runs. No torch here: the front process asks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from intarsia_server.engine.cost.estimate import Estimate, estimate_job
from intarsia_server.engine.images import pixel_count, pixel_size
from intarsia_server.engine.inputs import Checked, working_size
from intarsia_server.engine.request import (
    LabelMapSource,
    Scribbles,
    SoftMasks,
    TransferRequest,
    Until,
    Work,
)
from intarsia_server.executors.base import Executor, ExecutorInfo
from intarsia_server.jobs.model import Job

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Forecast:
    """What is expected of a job.

    Attributes:
        seconds: from its start to its result; None: not known.
        memory: bytes at its peak; 0: not known.
        least_seconds: that it takes in any case, if `seconds` is right.
    """

    seconds: float | None = None
    memory: int = 0
    least_seconds: float = 0.0


UNKNOWN = Forecast()


def least_seconds(work: Work, seconds: float | None) -> float:
    """What work takes in any case, if it takes `seconds` at most: until convergence, nobody can foresee it."""
    if seconds is None or not isinstance(work, TransferRequest) or work.optimization.until is Until.CONVERGED:
        return 0.0
    return seconds


class Forecaster:
    """Forecasts jobs by the speed that the executor's devices have shown.

    It reads headers in a thread of its own: whoever is refused must not wait until others' pictures have been decoded.

    Args:
        executor: that will run them; nothing is known until its workers have started.
        default_encoder: what the workers have loaded.
        max_pixels: largest picture that is decoded.
    """

    def __init__(self, executor: Executor, *, default_encoder: str, max_pixels: int) -> None:
        self._executor = executor
        self._default_encoder = default_encoder
        self._max_pixels = max_pixels
        self._headers = ThreadPoolExecutor(1, thread_name_prefix="intarsia-headers")

    def estimate(self, request: TransferRequest, checked: Checked | Job, info: ExecutorInfo) -> Estimate:
        """Estimates a transfer whose pictures have been checked."""
        return estimate_job(
            request,
            checked.size,
            areas=checked.areas,
            speeds=info.speeds,
            default_precision=info.default_precision,
            default_encoder=self._default_encoder,
            memory_budget=info.memory_budget,
        )

    async def by_headers(self, work: Work) -> Forecast:
        """Of work whose pictures nobody has decoded yet: as if every stage worked on all of the picture."""
        return await self._forecast(work, None)

    async def of(self, work: Work, checked: Checked) -> Forecast:
        """Of work whose pictures have been checked."""
        return await self._forecast(work, checked)

    async def _forecast(self, work: Work, checked: Checked | None) -> Forecast:
        info = self._executor.info()
        if info is None or not isinstance(work, TransferRequest):
            return UNKNOWN
        return await asyncio.get_running_loop().run_in_executor(self._headers, self._read, work, checked, info)

    def _read(self, work: TransferRequest, checked: Checked | None, info: ExecutorInfo) -> Forecast:
        try:
            if checked is None:
                if max(map(pixel_count, _pictures(work))) > self._max_pixels:
                    return UNKNOWN
                checked = Checked(working_size(*pixel_size(work.content), work.output.size))
            estimate = self.estimate(work, checked, info)
        except Exception:  # whatever is wrong with a picture, the check says, and names its field
            log.debug("no forecast", exc_info=True)
            return UNKNOWN
        return Forecast(estimate.seconds, estimate.memory_bytes, least_seconds(work, estimate.seconds))


def _pictures(request: TransferRequest) -> Iterator[bytes]:
    yield request.content
    yield from (segment.style for segment in request.segments if segment.style is not None)
    if request.optimization.start_image is not None:
        yield request.optimization.start_image
    match request.segmentation:
        case LabelMapSource(data=data) | Scribbles(data=data):
            yield data
        case SoftMasks(masks=masks):
            yield from (mask.data for mask in masks)
        case _:
            pass
