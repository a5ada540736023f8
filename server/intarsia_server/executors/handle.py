"""A worker as the front sees it, whatever process or computer it is in: what it says, and what a run makes of that."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

from intarsia_server.engine.request import Work
from intarsia_server.executors.base import (
    ExecutorEvent,
    ExecutorInfo,
    ExecutorStartError,
    FinalEvent,
    WorkerDiedError,
    WorkerStatus,
)
from intarsia_server.executors.messages import Failed, Holding, Learned, Ready, RunCommand, WorkerConfig, WorkerMessage
from intarsia_server.logs import current_fields

REFERENCE_FLOPS = 5e11
"""Of the step that workers are compared by: about one of a picture of 600 x 400."""


class WorkerHandle(ABC):
    """Runs requests on one worker, one at a time; it can be started again after it has died.

    Args:
        config: of the worker.
        on_exit: called in the event loop when the worker has ended by itself, after it was ready.
    """

    def __init__(self, config: WorkerConfig, on_exit: Callable[[WorkerHandle], None]) -> None:
        self.config = config
        self.info: ExecutorInfo | None = None
        self._on_exit = on_exit
        self._serial = 0
        self._starts = 0
        self._device_memory = 0
        self._messages: asyncio.Queue[WorkerMessage | None] = asyncio.Queue()

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it is there to take a request, as far as the event loop has heard."""

    @abstractmethod
    async def _open(self) -> None:
        """Begins to start it; whatever it says goes to `_messages`, and None once it is gone."""

    @abstractmethod
    async def _send(self, command: RunCommand) -> None:
        """Hands it a command; when it is gone that is found out by the messages' end."""

    @abstractmethod
    def _cancel(self, serial: int) -> None:
        """Tells it that requests up to this one are to stop; it polls that with each step."""

    @abstractmethod
    def stop(self) -> None:
        """Ends it, by force where it does not end by itself. Blocks."""

    @abstractmethod
    def status(self) -> WorkerStatus:
        """As it is now; may be called in any thread."""

    @property
    def restarts(self) -> int:
        """How often another has taken its place."""
        return max(0, self._starts - 1)

    @property
    def step_seconds(self) -> float:
        """What a step of some size takes it, to compare workers by."""
        assert self.info is not None
        speed = self.info.speeds[self.info.default_precision]
        return speed.seconds_per_step + REFERENCE_FLOPS * speed.seconds_per_flop

    async def start(self) -> None:
        """Starts the worker and waits for its encoder.

        Raises:
            ExecutorStartError: it cannot start; the message says why.
        """
        self._messages = asyncio.Queue()
        await self._open()
        self._starts += 1
        self._device_memory = 0
        message = await self._messages.get()
        if isinstance(message, Ready):
            self.info = message.info
            return
        if isinstance(message, Failed):
            raise message.error
        raise ExecutorStartError("a worker process ended before it was ready; see the log above")

    async def run(
        self, request: Work, cancel: asyncio.Event, checkpoint: Path | None
    ) -> AsyncGenerator[ExecutorEvent, None]:
        """Runs one request; on return, or on any error but `WorkerDiedError`, the worker is idle."""
        self._serial += 1
        serial = self._serial
        watcher = asyncio.create_task(self._pass_on(cancel, serial))
        has_ended = False
        try:
            await self._send(RunCommand(serial, request, checkpoint, current_fields()))
            while not has_ended:
                message = await self._messages.get()
                has_ended = _is_last(message)
                if (event := self._event_in(message)) is not None:
                    yield event
        finally:
            watcher.cancel()
            if not has_ended:  # its reader has left
                self._cancel(serial)
                while not _is_last(await self._messages.get()):
                    pass

    def _event_in(self, message: WorkerMessage | None) -> ExecutorEvent | None:
        """The event that a message is; None: it is about the worker.

        Raises:
            Exception: what the work ended with.
        """
        match message:
            case None:
                raise WorkerDiedError("the worker process died")
            case Failed():
                raise message.error
            case Learned():
                assert self.info is not None
                self.info = replace(self.info, speeds={**self.info.speeds, message.precision: message.speed})
                return None
            case Holding():
                self._device_memory = message.device_memory
                return None
        assert not isinstance(message, Ready)
        return message

    async def _pass_on(self, cancel: asyncio.Event, serial: int) -> None:
        await cancel.wait()
        self._cancel(serial)

    def _gone(self) -> None:
        """To be called in the event loop, once `alive` is no longer true."""
        self._messages.put_nowait(None)
        if self.info is not None:
            self._on_exit(self)


def _is_last(message: WorkerMessage | None) -> bool:
    """Whether a run has none after it."""
    return message is None or isinstance(message, Failed | FinalEvent)
