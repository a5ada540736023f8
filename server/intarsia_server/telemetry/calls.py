"""The one place where calls are watched: an interceptor that tells observers of their begin and end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc

# Their types have parameters in the stubs alone.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


@dataclass
class Call:
    """One call of the API.

    Attributes:
        method: its name without service, "Stylize".
        metadata: that the client sent; a key's last value.
        code: the status's name once it has ended.
    """

    method: str
    metadata: dict[str, str | bytes]
    code: str = "UNKNOWN"


class CallObserver(Protocol):
    """Is called in the event loop; it neither waits nor raises."""

    def began(self, call: Call) -> Callable[[], None]:
        """A call begins, in its own task; what is returned is called at its end."""

    def received(self, method: str, size: int) -> None:
        """A message of that many bytes has come."""

    def sent(self, method: str, size: int) -> None:
        """A message of that many bytes goes out."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Has to be the outermost one, to see the status that the client gets.

    Args:
        methods: full names of those to watch, "/package.Service/Method": what else a client makes up does not count.
        observers: are told.
    """

    def __init__(self, methods: Iterable[str], observers: Sequence[CallObserver]) -> None:
        self._methods = frozenset(methods)
        self._observers = observers

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps what is called; health, reflection and what there is not pass as they are."""
        handler = await continuation(handler_call_details)
        name = handler_call_details.method
        if handler is None or name not in self._methods:
            return handler
        method = name.rpartition("/")[2]
        kind, behaviour = next(
            (kind, behaviour) for kind in _WRAPPED if (behaviour := getattr(handler, kind)) is not None
        )
        # gRPC awaits a coroutine even where the response is a stream, and the call's refusal is one.
        wrapped = (self._awaited if inspect.iscoroutinefunction(behaviour) else self._iterated)(method, behaviour)
        make: Callable[..., Handler] = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            wrapped,
            self._counted_in(method, handler.request_deserializer),
            self._counted_out(method, handler.response_serializer),
        )

    def _awaited(self, method: str, behaviour: Any) -> Any:
        async def watched(request: Any, context: Context) -> Any:
            with self._watched(method, context):
                return await behaviour(request, context)

        return watched

    def _iterated(self, method: str, behaviour: Any) -> Any:
        async def watched(request: Any, context: Context) -> AsyncIterator[Any]:
            with self._watched(method, context):
                # Closed here and now, not whenever the garbage is collected: a job may hang on it.
                async with aclosing(behaviour(request, context)) as responses:
                    async for response in responses:
                        yield response

        return watched

    @contextmanager
    def _watched(self, method: str, context: Context) -> Iterator[None]:
        call = Call(method, dict(context.invocation_metadata() or ()))
        ends = [observer.began(call) for observer in self._observers]
        try:
            yield
            call.code = "OK"
        except (asyncio.CancelledError, GeneratorExit):
            left = context.time_remaining()
            call.code = "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"
            raise
        except Exception:
            # Aborted, though the client may be gone before that could be sent; to gRPC anything else is UNKNOWN.
            code = _CODES.get(context.code(), "UNKNOWN")
            call.code = code if code != "OK" else "UNKNOWN"
            raise
        finally:
            for end in reversed(ends):
                end()

    def _counted_in(self, method: str, deserialize: Any) -> Any:
        if deserialize is None:  # of a refusal, which reads nothing
            return None

        def counted(data: bytes) -> Any:
            for observer in self._observers:
                observer.received(method, len(data))
            return deserialize(data)

        return counted

    def _counted_out(self, method: str, serialize: Any) -> Any:
        if serialize is None:
            return None

        def counted(message: Any) -> bytes:
            data: bytes = serialize(message)
            for observer in self._observers:
                observer.sent(method, len(data))
            return data

        return counted


_WRAPPED = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

# A context gives the number; the type says otherwise.
_CODES: dict[Any, str] = {key: code.name for code in grpc.StatusCode for key in (code, code.value[0])}
