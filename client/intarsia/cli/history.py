"""What a plot needs to remember of a job."""

from __future__ import annotations

from dataclasses import dataclass, field

from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["TOTAL", "Curve", "History", "Series"]

Series = tuple[str, int | None]
"""A loss's name and its segment, None for the whole picture."""
TOTAL: Series = ("total", None)

Curve = list[tuple[int, float]]
"""(step, value) of one loss within one stage."""


@dataclass
class History:
    """A job's losses and previews by step, steps being counted through all stages; a `Listener`.

    Attributes:
        stages: (name, step before its first) of each stage.
        curves: Of each loss one curve per stage, since a loss need not be comparable across stages.
        previews: (step, JPEG) of each preview.
        steps: How many steps there were.
    """

    stages: list[tuple[str, int]] = field(default_factory=list)
    curves: dict[Series, list[Curve]] = field(default_factory=dict)
    previews: list[tuple[int, bytes]] = field(default_factory=list)
    steps: int = 0

    def __call__(self, response: pb.StylizeResponse) -> None:
        """Remembers an event."""
        match response.WhichOneof("event"):
            case "stage":
                self.stages.append((response.stage.stage, self.steps))
                for curves in self.curves.values():
                    curves.append([])
            case "progress":
                self._add_progress(response.progress)
            case "resumed":
                self._forget_after(response.resumed)
            case "preview":
                self.previews.append((self._start + response.preview.step, response.preview.image.data))

    def _forget_after(self, resumed: pb.ResumedEvent) -> None:
        """Drops the steps that are taken again; a stage that begins anew is announced anew."""
        while self.stages and self.stages[-1][0] != resumed.stage:
            self.stages.pop()
            for curves in self.curves.values():
                curves.pop()
        self.steps = self._start + resumed.step
        for curves in self.curves.values():
            curves[-1:] = [[(step, value) for step, value in curve if step <= self.steps] for curve in curves[-1:]]
        self.previews = [(step, image) for step, image in self.previews if step <= self.steps]

    @property
    def _start(self) -> int:
        return self.stages[-1][1] if self.stages else 0

    def _add_progress(self, progress: pb.ProgressEvent) -> None:
        self.steps = self._start + progress.step
        values = {TOTAL: progress.total_loss}
        for loss in progress.losses:
            values[loss.name, loss.segment if loss.HasField("segment") else None] = loss.value
        for series, value in values.items():
            self.curves.setdefault(series, [[]])[-1].append((self.steps, value))
