"""Bytes that are no message: gRPC itself would call them a defect of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from intarsia_server.engine.errors import InvalidInputError
from intarsia_server.rpc.interceptors import PACKAGE


class DecodingInterceptor(grpc.aio.ServerInterceptor):
    """Refuses what cannot be parsed as a bad request. Within `ErrorInterceptor`, which makes a status of it."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the kinds of call that the API has; the standard services pass as they are."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(f"/{PACKAGE}."):
            return handler
        parse, serialize = _lenient(handler.request_deserializer), handler.response_serializer
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(_checked(handler.unary_unary), parse, serialize)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(_checked(handler.unary_stream), parse, serialize)
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(_checked_stream(handler.stream_unary), parse, serialize)
        return handler


def _lenient(parse: Any) -> Callable[[bytes], Any]:
    """Gives the error back, since nobody catches it where it arises."""

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            return error

    return parsed


def _sound(request: Any) -> Any:
    if isinstance(request, DecodeError):
        raise InvalidInputError("request", "is not a message of this call")
    return request


def _checked(behaviour: Any) -> Any:
    def checked(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return behaviour(_sound(request), context)

    return checked


def _checked_stream(behaviour: Any) -> Any:
    def checked(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return behaviour((_sound(request) async for request in requests), context)

    return checked
