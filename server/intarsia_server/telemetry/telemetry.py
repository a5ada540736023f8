"""All of it put together, as the settings want it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack

import grpc

from intarsia_server.jobs.observer import JobObserver
from intarsia_server.telemetry.calls import CallInterceptor
from intarsia_server.telemetry.endpoint import served_metrics
from intarsia_server.telemetry.exporter import tracing_from_environment
from intarsia_server.telemetry.loop_lag import watch_loop_lag
from intarsia_server.telemetry.metrics import Metrics
from intarsia_server.telemetry.present import Present

log = logging.getLogger(__name__)


class Telemetry:
    """Metrics where they have an address, traces where the environment asks for them; else nothing, at no cost.

    Args:
        metrics_address: HOST:PORT; empty: no metrics.
        code_of: the name of the status that an error becomes.
        versions: of the packages that matter; "intarsia" is the server's own.
    """

    def __init__(
        self, metrics_address: str, *, code_of: Callable[[Exception], str], versions: Mapping[str, str]
    ) -> None:
        self._address = metrics_address
        self._metrics = Metrics(code_of, versions) if metrics_address else None
        self._tracing = tracing_from_environment(versions["intarsia"])
        self._open = ExitStack()

    @property
    def observers(self) -> list[JobObserver]:
        """For the job manager."""
        return [observer for observer in (self._tracing, self._metrics) if observer is not None]

    def interceptors(self, methods: Iterable[str]) -> list[grpc.aio.ServerInterceptor]:
        """For the server, outside of its own; `methods` are the full names of the API's."""
        observers = [observer for observer in (self._tracing, self._metrics) if observer is not None]
        return [CallInterceptor(methods, observers)] if observers else []

    def start(self, present: Present) -> None:
        """Serves the metrics, with how things stand when they are asked for.

        Raises:
            OSError: nothing can listen on the address.
        """
        if self._metrics is None:
            return
        self._metrics.registry.register(present)
        port = self._open.enter_context(served_metrics(self._metrics.registry, self._address))
        self._open.callback(asyncio.create_task(watch_loop_lag(self._metrics.lagged)).cancel)
        log.info("metrics on http://%s:%d/metrics", self._address.rpartition(":")[0], port)

    async def stop(self) -> None:
        """Ends it, once nothing is left to be told."""
        await asyncio.to_thread(self._open.close)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.stop)
