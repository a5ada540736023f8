"""Intarsia's client: segmentation-based multi-style transfer over gRPC.

The names below are loaded when they are first used, so that `import intarsia` alone costs next to nothing.

Example:
    with intarsia.Client.embedded() as client:
        styles = {0: "brush.png", 1: "glass.png", 2: "keep"}
        client.stylize("content.png", labels="labels.png", styles=styles).result().save("out.png")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from intarsia.aio import AsyncClient
    from intarsia.aio_stylization import AsyncStylization
    from intarsia.client import Client
    from intarsia.credentials import tls_credentials
    from intarsia.embedded import EmbeddedServer
    from intarsia.errors import IntarsiaError, RequestError
    from intarsia.evaluation import build_evaluation
    from intarsia.jobs import state_name, state_names
    from intarsia.request import build_request, method_names
    from intarsia.result import Result
    from intarsia.segmentation import build_segment_request, model_names
    from intarsia.stylization import Stylization
    from intarsia.version import __version__

__all__ = [
    "AsyncClient",
    "AsyncStylization",
    "Client",
    "EmbeddedServer",
    "IntarsiaError",
    "RequestError",
    "Result",
    "Stylization",
    "__version__",
    "build_evaluation",
    "build_request",
    "build_segment_request",
    "method_names",
    "model_names",
    "state_name",
    "state_names",
    "tls_credentials",
]

_HOMES = {
    "AsyncClient": "aio",
    "AsyncStylization": "aio_stylization",
    "Client": "client",
    "EmbeddedServer": "embedded",
    "IntarsiaError": "errors",
    "RequestError": "errors",
    "Result": "result",
    "Stylization": "stylization",
    "__version__": "version",
    "build_evaluation": "evaluation",
    "build_request": "request",
    "build_segment_request": "segmentation",
    "method_names": "request",
    "model_names": "segmentation",
    "state_name": "jobs",
    "state_names": "jobs",
    "tls_credentials": "credentials",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
