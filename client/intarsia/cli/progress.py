"""Progress on stderr: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from intarsia.cli.job import Listener
from intarsia.cli.notices import warning_line
from intarsia.jobs import state_name
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["progress_display"]

_MAIN_LOSSES = 3
_LINES_PER_STAGE = 10


@contextmanager
def progress_display() -> Iterator[Listener]:
    """Gives the listener that shows a job's progress for as long as the block lasts."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainLines()
        return
    with _Bar(console) as bar:
        yield bar.show


class _PlainLines:
    def __init__(self) -> None:
        self._tenth = 0

    def __call__(self, response: pb.StylizeResponse) -> None:
        match response.WhichOneof("event"):
            case "stage":
                stage = response.stage
                self._tenth = 0
                _say(f"stage {stage.index + 1} of {stage.stage_count}: {stage.stage}, {stage.total_steps} steps")
            case "progress":
                self._progress(response.progress)
            case _:
                self._tenth = 0 if response.HasField("resumed") else self._tenth  # steps are taken again
                text = _notice(response)
                if text:
                    _say(text)

    def _progress(self, progress: pb.ProgressEvent) -> None:
        tenth = progress.step * _LINES_PER_STAGE // max(progress.total_steps, 1)
        if tenth > self._tenth or progress.converged:
            self._tenth = tenth
            eta = f"  {_eta(progress)}" if progress.HasField("eta") else ""
            converged = "  converged" if progress.converged else ""
            _say(f"{progress.stage} {progress.step}/{progress.total_steps}  {_losses(progress)}{converged}{eta}")


class _Bar(Progress):
    def __init__(self, console: Console) -> None:
        self._losses = Text(style="dim", no_wrap=True, overflow="ellipsis")
        super().__init__(
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[eta]}", style="cyan"),
            console=console,
            expand=True,
            transient=True,
        )
        self._stage = ""
        self._task = self.add_task("waiting", total=None, eta="")

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield self._losses

    def show(self, response: pb.StylizeResponse) -> None:
        match response.WhichOneof("event"):
            case "stage":
                stage = response.stage
                self._stage = f"{stage.stage} ({stage.index + 1} of {stage.stage_count})"
                self.update(self._task, description=self._stage)
            case "snapshot" if response.snapshot.HasField("stage"):
                stage = response.snapshot.stage
                self._stage = f"{stage.stage} ({stage.index + 1} of {stage.stage_count})"
                self.update(
                    self._task, total=1, completed=response.snapshot.job.fraction, description=_notice(response)
                )
            case "progress":
                progress = response.progress
                self._losses.plain = _losses(progress)
                description = f"{self._stage}  step {progress.step}/{progress.total_steps}"
                self.update(
                    self._task, total=1, completed=progress.fraction, description=description, eta=_eta(progress)
                )
            case "warning" | "resumed":
                self.console.print(Text(_notice(response), style="yellow"))
            case _:
                text = _notice(response)
                if text:
                    self.update(self._task, description=text)


def _notice(response: pb.StylizeResponse) -> str:
    """What a person should hear about events other than stages and steps; empty: nothing."""
    match response.WhichOneof("event"):
        case "accepted":
            accepted = response.accepted
            return f"accepted: {accepted.width} x {accepted.height} pixels{_queue(accepted.queue_position)}"
        case "queued":
            return f"queued{_queue(response.queued.queue_position) or ': next'}"
        case "warning":
            return warning_line(response.warning)
        case "snapshot":
            return _standing(response.snapshot)
        case "resumed":
            resumed = response.resumed
            place = f"goes on after {resumed.stage} {resumed.step}" if resumed.stage else "begins anew"
            return f"the job was interrupted and {place}"
    return ""


def _standing(snapshot: pb.SnapshotEvent) -> str:
    """Where a job is by now, in place of the events that are not kept any more."""
    if not snapshot.HasField("progress"):
        return f"{state_name(snapshot.job)}{_queue(snapshot.job.queue_position)}"
    progress = snapshot.progress
    return f"{state_name(snapshot.job)}: {progress.stage} {progress.step}/{progress.total_steps}"


def _queue(position: int) -> str:
    return f", {position} before it" if position else ""


def _losses(progress: pb.ProgressEvent) -> str:
    sums: dict[str, float] = {}
    for loss in progress.losses:
        sums[loss.name] = sums.get(loss.name, 0.0) + loss.value
    main = sorted(sums.items(), key=lambda item: -item[1])[:_MAIN_LOSSES]
    return "  ".join([f"loss {progress.total_loss:.4g}", *(f"{name} {value:.4g}" for name, value in main)])


def _eta(progress: pb.ProgressEvent) -> str:
    if not progress.HasField("eta"):
        return ""
    minutes, seconds = divmod(round(progress.eta.ToTimedelta().total_seconds()), 60)
    return f"ETA {minutes}:{seconds:02d}"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
