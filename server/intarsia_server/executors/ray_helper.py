"""Actors that see some of a large picture's tiles, and what their worker knows of them. In actors' processes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError
from torch import Tensor

from intarsia_server.engine.inputs import Inputs
from intarsia_server.engine.request import TransferRequest
from intarsia_server.engine.tile_share import Comparisons, Crew, Part, Place, Sums, TileShare
from intarsia_server.engine.transfer import TransferShare
from intarsia_server.executors.messages import WorkerConfig
from intarsia_server.executors.worker import Worker, start_worker


class HelperActor:
    """Does shares of the transfers of the worker that has made it, and ends with it.

    Args:
        config: of that worker.
    """

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._worker: Worker
        self._share: TransferShare

    def start(self) -> None:
        """Loads the encoder.

        Raises:
            ExecutorStartError: it cannot.
        """
        self._worker = start_worker(self._config)

    def open(self, request: TransferRequest, inputs: Inputs, tile_pixels: int, place: Place) -> None:
        """Takes a place in a transfer; the one before it is over."""
        self._share = self._worker.share(request, inputs, tile_pixels, place)

    def begin(self, stage: int) -> None:
        """As of `TransferShare`."""
        self._share.begin(stage)

    def sums(self, image: Tensor) -> Sums:
        """As of `TransferShare`."""
        return {index: to_cpu(grams) for index, grams in self._share.sums(image).items()}

    def part(self, compared: Comparisons) -> Part:
        """As of `TransferShare`."""
        gradient, values = self._share.part(compared)
        return Part(gradient.cpu(), values.cpu())


class Helpers:
    """The helpers of a worker.

    Args:
        config: of the worker.
        count: of them.
        resources: of each, as options of an actor.
        on_death: called where one of them has died; does not return.
    """

    def __init__(
        self, config: WorkerConfig, count: int, resources: Mapping[str, float], on_death: Callable[[], None]
    ) -> None:
        remote: Any = ray.remote(HelperActor)
        self._actors = [remote.options(max_restarts=0, **resources).remote(config) for _ in range(count)]
        self._on_death = on_death
        self._started = [actor.start.remote() for actor in self._actors]

    def wait(self) -> None:
        """Until each has loaded its encoder.

        Raises:
            ExecutorStartError: one cannot start.
        """
        self.get(self._started)

    def gather(self, request: TransferRequest, inputs: Inputs, tile_pixels: int) -> Crew:
        """Has each take its place in a transfer, and does not wait for it."""
        common = [ray.put(each) for each in (request, inputs)]
        of = 1 + len(self._actors)
        opened = [
            actor.open.remote(*common, tile_pixels, Place(number, of)) for number, actor in enumerate(self._actors, 1)
        ]
        return _Crew(self, self._actors, opened)

    def get(self, references: Sequence[Any]) -> list[Any]:
        """What has been asked of helpers; raises what went wrong there."""
        try:
            return list(ray.get(list(references)))
        except RayTaskError as error:
            raise error.cause from None
        except RayActorError:
            self._on_death()
            raise


class _Crew(Crew):
    def __init__(self, helpers: Helpers, actors: Sequence[ActorHandle[HelperActor]], opened: Sequence[Any]) -> None:
        self._helpers = helpers
        self._actors = actors
        self._opened = opened

    def shares(self, stage: int) -> Sequence[TileShare]:
        """As of the base."""
        return [
            _Share(self._helpers, actor, [opened, actor.begin.remote(stage)])
            for actor, opened in zip(self._actors, self._opened, strict=True)
        ]


@dataclass
class _Share(TileShare):
    """Attributes: `begun`, what has to have gone well before there is an answer."""

    helpers: Helpers
    actor: ActorHandle[HelperActor]
    begun: list[Any]

    def sums(self, image: Tensor) -> Callable[[], Sums]:
        return self._asked(self.actor.sums.remote(image.cpu()))

    def part(self, compared: Comparisons) -> Callable[[], Part]:
        plain = {index: (to_cpu(grams), losses.cpu()) for index, (grams, losses) in compared.items()}
        return self._asked(self.actor.part.remote(plain))

    def _asked(self, reference: Any) -> Callable[[], Any]:
        def wait() -> Any:
            *_, answer = self.helpers.get([*self.begun, reference])
            self.begun = []
            return answer

        return wait


def to_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the same names, to be sent."""
    return {name: tensor.detach().to(torch.device("cpu")) for name, tensor in tensors.items()}
