"""What an executor is, and what it reports. No torch here: this is the front process's side."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from intarsia_server.engine.cost.speed import Speed
from intarsia_server.engine.device_info import DeviceInfo, resident_memory
from intarsia_server.engine.events import TransferWarning
from intarsia_server.engine.figures import Evaluation
from intarsia_server.engine.label_answer import FoundLabels
from intarsia_server.engine.request import ImageFormat, Precision, Work
from intarsia_server.engine.stages import LossValue, StageDone, StageStarted


@dataclass(frozen=True)
class ProgressEvent:
    """One step is done; `fraction` is of the whole job, `eta_seconds` to its end, None until it can be told.

    With `converged` the stage ends with this step.
    """

    stage: str
    step: int
    total_steps: int
    losses: tuple[LossValue, ...]
    total_loss: float
    fraction: float
    eta_seconds: float | None
    converged: bool = False


@dataclass(frozen=True)
class PreviewEvent:
    """The picture after a step, a small JPEG."""

    stage: str
    step: int
    image: bytes


@dataclass(frozen=True)
class ResumedEvent:
    """The job goes on after that step of that stage; "" and 0 when it begins anew. Later steps are taken again."""

    stage: str
    step: int


class FinalEvent:
    """Base of the events that a run ends with, one for each kind of work."""


@dataclass(frozen=True)
class ResultEvent(FinalEvent):
    """The finished picture, encoded."""

    image: bytes
    format: ImageFormat
    width: int
    height: int
    stages: tuple[StageDone, ...]


@dataclass(frozen=True)
class EvaluatedEvent(FinalEvent):
    """A picture has been judged."""

    evaluation: Evaluation


@dataclass(frozen=True)
class SegmentedEvent(FinalEvent):
    """The labels of a content image have been found."""

    found: FoundLabels


ExecutorEvent = (
    StageStarted
    | ProgressEvent
    | PreviewEvent
    | TransferWarning
    | ResumedEvent
    | ResultEvent
    | EvaluatedEvent
    | SegmentedEvent
)
"""The engine's own events where they can cross to another process as they are."""


@dataclass(frozen=True)
class ExecutorInfo:
    """What an executor's workers run on.

    Attributes:
        devices: one a worker.
        ops: which implementation of the operators.
        default_precision: what AUTO stands for.
        speeds: of the first device at every other precision; they follow what its jobs take.
        idle_memory: bytes that the first worker holds on its device when it does nothing.
        memory_budget: bytes that it may hold there in all, unless a request says; None: not known.
    """

    devices: tuple[DeviceInfo, ...]
    ops: str
    default_precision: Precision
    speeds: Mapping[Precision, Speed]
    idle_memory: int
    memory_budget: int | None = None


@dataclass(frozen=True)
class WorkerStatus:
    """A worker process as it is now.

    Attributes:
        device: that it works on.
        pid: None while there is no process.
        restarts: how often another process has taken its place.
        device_memory: bytes of its GPU's memory that it held when it last said so; 0 on a CPU.
    """

    device: str
    pid: int | None
    restarts: int
    device_memory: int

    @property
    def resident_memory(self) -> int:
        """Bytes that its process holds in the computer's memory; 0: there is none, or it is not known."""
        return 0 if self.pid is None else resident_memory(self.pid)


class ExecutionCancelledError(Exception):
    """The work stopped because it was asked to; its worker is idle again."""


class OutOfMemoryError(RuntimeError):
    """The device has not enough memory for the job."""


class WorkerDiedError(RuntimeError):
    """The process that worked on the job ended; another takes its place."""


class ExecutorStartError(RuntimeError):
    """A worker cannot start; the message says why."""


class Executor(ABC):
    """Runs work of any kind, at most `slots` at a time."""

    slots: int

    @abstractmethod
    async def start(self, on_ready: Callable[[bool], None]) -> None:
        """Starts the workers and waits until each has loaded the default encoder.

        Args:
            on_ready: called with True when the executor can take work and with False when it no longer can.

        Raises:
            ExecutorStartError: a worker cannot start.
        """

    @abstractmethod
    def run(
        self, request: Work, cancel: asyncio.Event, checkpoint: Path | None = None
    ) -> AsyncGenerator[ExecutorEvent, None]:
        """Runs one request on a free worker and yields its events; the last one is a `FinalEvent`.

        Args:
            request: to run.
            cancel: once set, the work stops; a transfer within one step.
            checkpoint: file in an existing folder, where a transfer writes its checkpoints. If it holds one of the
                same request the transfer goes on from there: a `ResumedEvent` comes first, and no warning from before.
                It is left there when the run ends, for the caller to remove.

        Raises:
            InvalidInputError, WeightsUnavailableError: as the engine says.
            ExecutionCancelledError: `cancel` was set.
            OutOfMemoryError, WorkerDiedError: as their names say.
        """

    @abstractmethod
    def info(self) -> ExecutorInfo | None:
        """What the workers run on; None until the first of them has started."""

    @abstractmethod
    async def started(self) -> ExecutorInfo:
        """What the workers run on, as soon as all of them have started."""

    def workers(self) -> tuple[WorkerStatus, ...]:
        """Its worker processes, always in the same order; may be called in any thread. Empty where there are none."""
        return ()

    @abstractmethod
    async def stop(self) -> None:
        """Ends all workers."""
