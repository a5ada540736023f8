"""An actor of a Ray cluster as the front sees it."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from intarsia_server.engine.request import Work
from intarsia_server.executors.base import ExecutorEvent, ExecutorStartError, WorkerStatus
from intarsia_server.executors.checkpoint_receiver import CheckpointReceiver
from intarsia_server.executors.handle import WorkerHandle
from intarsia_server.executors.messages import RunCommand, WorkerConfig
from intarsia_server.executors.ray_actor import PART_BYTES, WorkerActor
from intarsia_server.executors.ray_messages import FRONT_GROUP, CheckpointPart, LogLine, Told

log = logging.getLogger(__name__)

FRONT_THREADS = 2
"""Of an actor: one is asked for messages, another may be told to cancel meanwhile."""

ROOM_SECONDS = 30.0
"""That a start may take before the log says what it may be waiting for."""

END_SECONDS = 10.0
"""That an actor may take to end."""


@dataclass
class Surroundings:
    """What the workers of an executor share.

    Attributes:
        threads: in which the calls to Ray are made that block.
        helpers: of each worker.
        folder: in which actors make theirs; None: where temporary files lie on their computers.
    """

    threads: ThreadPoolExecutor
    helpers: int = 0
    folder: str | None = None


class RayWorker(WorkerHandle):
    """A worker that is a detached actor, in whatever computer of the cluster has room for it.

    Args:
        config: of the worker.
        name: of the actor in its namespace; an actor of that name is another front's, which has gone.
        surroundings: of it.
        on_exit: as of `WorkerHandle`.
    """

    def __init__(
        self,
        config: WorkerConfig,
        name: str,
        surroundings: Surroundings,
        on_exit: Callable[[WorkerHandle], None],
    ) -> None:
        super().__init__(config, on_exit)
        self._name = name
        self._surroundings = surroundings
        self._actor: ActorHandle[WorkerActor] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._receiver = CheckpointReceiver(None)
        self._told = Told((), 0, 0)

    @property
    def alive(self) -> bool:
        """Whether the actor is there to take a request, as far as the event loop has heard."""
        return self._actor is not None

    async def start(self) -> None:
        """As of the base; the cluster may have to make room first."""
        waiting = asyncio.get_running_loop().call_later(
            ROOM_SECONDS, log.warning, "still no worker for %s: the cluster may have no room for it", self.config.device
        )
        try:
            await super().start()
        except ExecutorStartError:
            await self._in_thread(self.stop)
            raise
        finally:
            waiting.cancel()

    async def _open(self) -> None:
        try:
            self._actor = await self._in_thread(self._create)
        except (RayError, ValueError, RuntimeError) as error:
            raise ExecutorStartError(f"an actor cannot be made: {error}") from error
        self._told = Told((), 0, 0)
        self._reader = asyncio.create_task(self._read(self._actor))

    def _create(self) -> ActorHandle[WorkerActor]:
        _end_named(self._name)
        is_gpu = self.config.device.startswith("cuda")
        # Ray shows an actor the GPU that it has chosen for it, and no other.
        config = replace(self.config, device="cuda:0") if is_gpu else self.config
        resources = {"num_cpus": 1 if is_gpu else self.config.threads, "num_gpus": 1 if is_gpu else 0}
        make: Any = ray.remote  # whose types do not know of concurrency groups
        remote = make(concurrency_groups={FRONT_GROUP: FRONT_THREADS})(WorkerActor)
        actor: ActorHandle[WorkerActor] = remote.options(
            name=self._name,
            lifetime="detached",
            max_restarts=0,
            **resources,
        ).remote(config, self._surroundings.folder, self._surroundings.helpers, resources)
        _call(actor, "start")
        return actor

    async def run(
        self, request: Work, cancel: asyncio.Event, checkpoint: Path | None
    ) -> AsyncGenerator[ExecutorEvent, None]:
        """As of the base; checkpoints come from the actor in parts."""
        self._receiver = CheckpointReceiver(checkpoint)
        try:
            async with aclosing(super().run(request, cancel, checkpoint)) as events:
                async for event in events:
                    yield event
        finally:
            self._receiver.close()

    async def _send(self, command: RunCommand) -> None:
        if self._actor is not None:
            await self._in_thread(_send, self._actor, command)

    def _cancel(self, serial: int) -> None:
        if self._actor is not None:
            _call(self._actor, "cancel", serial, group=FRONT_GROUP)

    async def _read(self, actor: ActorHandle[WorkerActor]) -> None:
        """Asks for messages until the actor is gone."""
        try:
            while True:
                self._told = await _ask(actor)
                for message in self._told.messages:
                    match message:
                        case CheckpointPart():
                            if message.serial == self._serial:
                                await asyncio.to_thread(self._receiver.take, message.data)
                        case LogLine():
                            sys.stderr.write(message.text)
                        case _:
                            self._messages.put_nowait(message)
        except RayError as error:
            log.info("actor %s is gone: %s", self._name, str(error).partition("\n")[0])
        self._actor = None
        # It may be there and out of reach; it would end by itself, but only after a while.
        await self._in_thread(_kill, actor)
        self._gone()

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._surroundings.threads, function, *arguments)

    def status(self) -> WorkerStatus:
        """As the actor last said; may be called in any thread."""
        told = self._told if self.alive else Told((), 0, 0)
        return WorkerStatus(
            self.config.device, told.pid or None, self.restarts, self._device_memory, told.resident_memory
        )

    def stop(self) -> None:
        """Ends the actor at once: what it works on goes on from its checkpoint."""
        actor = self._actor
        if actor is not None and ray.is_initialized():
            _call(actor, "end", group=FRONT_GROUP)
            _end_named(self._name)


def _ask(actor: ActorHandle[WorkerActor]) -> Any:
    handle: Any = actor
    return handle.told.options(concurrency_group=FRONT_GROUP).remote()


def _call(actor: ActorHandle[WorkerActor], method: str, *arguments: object, group: str | None = None) -> None:
    """Calls a method whose result nobody waits for."""
    options = {} if group is None else {"concurrency_group": group}
    getattr(actor, method).options(num_returns=0, **options).remote(*arguments)


def _send(actor: ActorHandle[WorkerActor], command: RunCommand) -> None:
    """The checkpoint goes first; a method's calls are carried out in their order."""
    if command.checkpoint is not None:
        with suppress(FileNotFoundError), command.checkpoint.open("rb") as file:
            while data := file.read(PART_BYTES):
                _call(actor, "take_checkpoint", command.serial, data)
    _call(actor, "run", command)


def _end_named(name: str) -> None:
    """Ends the actor of that name, if there is one, and waits until the name is free."""
    until = time.monotonic() + END_SECONDS
    while time.monotonic() < until:
        try:
            actor = ray.get_actor(name)
        except ValueError:
            return
        _kill(actor)
        time.sleep(0.05)


def _kill(actor: Any) -> None:
    with suppress(RayError, ValueError):
        ray.kill(actor, no_restart=True)
