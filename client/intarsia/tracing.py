"""Passes the caller's OpenTelemetry span on, so that the server's spans are found under it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

__all__ = ["traced"]

_Channel = TypeVar("_Channel")


def traced(channel: _Channel) -> _Channel:
    """Returns the channel, blocking or asyncio, with W3C traceparent metadata on each of its calls; for stubs alone.

    Without opentelemetry-api it is the channel itself; without a current span a call has no such metadata.
    """
    try:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
    except ImportError:  # it is no dependency of the client
        return channel
    return cast("_Channel", _TracedChannel(channel, TraceContextTextMapPropagator().inject))


class _TracedChannel:
    """As much of a channel as a stub needs. No interceptor: those change what kind of object a call is."""

    def __init__(self, channel: Any, inject: Callable[[dict[str, str]], None]) -> None:
        self._channel = channel
        self._inject = inject

    def __getattr__(self, kind: str) -> Callable[..., Callable[..., Any]]:
        make = getattr(self._channel, kind)

        def made(*arguments: Any, **options: Any) -> Callable[..., Any]:
            call = make(*arguments, **options)

            def traced_call(*requests: Any, metadata: Any = None, **rest: Any) -> Any:
                carrier: dict[str, str] = {}
                self._inject(carrier)
                return call(*requests, metadata=(*(metadata or ()), *carrier.items()), **rest)

            return traced_call

        return made
