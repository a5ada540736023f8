"""Waiting in such a way that Ctrl-C does no harm."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, cast

from intarsia.stylization import Stylization
from intarsia.v1 import style_transfer_pb2 as pb

__all__ = ["Aside"]

_T = TypeVar("_T")
_Answer: TypeAlias = SimpleQueue[tuple[Any, BaseException | None]]


class Aside:
    """A thread that makes calls for the main thread, which waits for them where Ctrl-C may come at any time.

    Python raises KeyboardInterrupt between any two steps of the main thread. Within gRPC's wait for a stream's next
    message, or `threading.Condition`'s, that can be where a lock has been let go and not been taken again: what then
    comes out is a RuntimeError about the lock. `SimpleQueue.get` has no such place.

    The thread ends with the `with` block, or once its last call returns; one that never does keeps no program alive.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[tuple[Callable[[], Any], _Answer] | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="aside", daemon=True).start()

    def __call__(self, function: Callable[[], _T]) -> _T:
        """Returns what the function returns, or raises what it raises.

        Raises:
            KeyboardInterrupt: The function goes on, and nobody hears of its end.
        """
        answer: _Answer = SimpleQueue()
        self._asked.put((function, answer))
        value, error = answer.get()
        if error is not None:
            raise error
        return cast("_T", value)

    def events(self, job: Stylization) -> Iterator[pb.StylizeResponse]:
        """Gives a job's events, each as soon as it arrives.

        Raises:
            IntarsiaError: As `next` of the job.
        """
        while (event := self(lambda: next(job, None))) is not None:
            yield event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asked.put(None)

    def _serve(self) -> None:
        while (asked := self._asked.get()) is not None:
            function, answer = asked
            try:
                answer.put((function(), None))
            except BaseException as error:  # raised again where it is waited for
                answer.put((None, error))
