"""Lets nobody in without a token."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc

from intarsia_server.rpc.callers import token_name
from intarsia_server.rpc.tokens import Tokens

log = logging.getLogger(__name__)

OPEN = "/grpc.health.v1.Health/"
"""Whoever asks whether the server is well has no token: probes of an orchestrator."""


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without a token that is known, before anything of them is read.

    It stands before all that serve, so that none gets by.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Lets the call pass, and remembers whose it is, or ends it with UNAUTHENTICATED."""
        if handler_call_details.method.startswith(OPEN):
            return await continuation(handler_call_details)
        name = self._tokens.name_of(_bearer(handler_call_details.invocation_metadata))
        if name is None:
            # Whatever kind the call is: a handler of streams is called before a message is received.
            return grpc.stream_stream_rpc_method_handler(_refuse)
        token_name.set(name)
        return await continuation(handler_call_details)


async def _refuse(requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> NoReturn:
    del requests
    log.warning("call from %s refused, without a token that is known", context.peer())
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a valid token is needed")


def _bearer(metadata: Any) -> str:
    """The call's token; "" when it has none, or more than one."""
    values = [value for key, value in metadata if key == "authorization"]
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    return token.strip() if scheme.lower() == "bearer" else ""
