"""Whether traces are wanted, and where to: what the standard OTEL_ variables say."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intarsia_server.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def tracing_from_environment(version: str) -> Tracing | None:
    """Traces by OTLP over gRPC; None unless an endpoint is named, and without the packages of the extra `telemetry`."""
    named = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if named is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from intarsia_server.telemetry.tracing import Tracing
    except ImportError as error:
        log.warning("%s is set, but there will be no traces: %s; pip install 'intarsia[telemetry]'", named, error)
        return None
    return Tracing(BatchSpanProcessor(OTLPSpanExporter()), version)
