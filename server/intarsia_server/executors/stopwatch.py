"""Times a transfer's steps, for the speeds that estimates are made from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Generator

from intarsia_server.engine.cost.speed import Point, Speedometer
from intarsia_server.engine.cost.work import JobWork, layers_of
from intarsia_server.engine.events import StepDone, TransferEvent
from intarsia_server.engine.images import Pixels
from intarsia_server.engine.stages import StageStarted


class Stopwatch:
    """Watches one transfer."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}
        self.areas: dict[str, float] = {}
        """As of `job_work`."""

    def watch(self, events: Generator[TransferEvent, None, Pixels]) -> Generator[TransferEvent, None, Pixels]:
        """Passes events on; what their reader does with them does not count."""
        while True:
            began = time.perf_counter()
            try:
                event = next(events)
            except StopIteration as stop:
                pixels: Pixels = stop.value
                return pixels
            if isinstance(event, StageStarted):
                self.areas[event.stage] = event.share
            # A stage's first step has the targets in it, and whatever the device does only once.
            if isinstance(event, StepDone) and event.step > 1:
                self._seconds.setdefault(event.stage, []).append(time.perf_counter() - began)
            yield event

    def teach(self, speedometer: Speedometer, work: JobWork, outside: float) -> None:
        """Passes on what was seen.

        Args:
            speedometer: of the precision.
            work: of that transfer.
            outside: seconds that its job took outside of its stages.
        """
        for point in self.points(work):
            speedometer.learn_step(point)
        outside -= work.flops * speedometer.speed.seconds_per_flop
        if outside > 0:
            speedometer.learn_preparation(work.pixels, outside)

    def points(self, work: JobWork) -> list[Point]:
        """The usual step of each stage that had several; a stage without encoder tells nothing."""
        return [
            Point(stage.step_flops, statistics.median(self._seconds[stage.stage.name]))
            for stage in work.stages
            if stage.stage.name in self._seconds and layers_of(stage.stage.losses)
        ]
