"""The metrics that a server has, without one."""

from __future__ import annotations

from collections.abc import Iterator

from intarsia_server.jobs.folder import Stored
from intarsia_server.telemetry.metrics import Metrics
from intarsia_server.telemetry.present import Present


def registered() -> Iterator[tuple[str, tuple[str, tuple[str, ...]]]]:
    """Our own metrics' names as Prometheus sees them, with type and labels."""
    registry = Metrics(lambda error: type(error).__name__, {"intarsia": "1"}).registry
    present = Present(lambda: (), 1, lambda: (), lambda: Stored({}, {}, 0))
    # Whatever has labels but no values yet has no samples to read them from.
    labels = {family.name: family._labelnames for family in present.collect()}
    labels |= {own._name: own._labelnames for own in registry._collector_to_names if hasattr(own, "_labelnames")}
    registry.register(present)
    for family in registry.collect():
        match family.type:
            case _ if family.name.startswith("process_"):
                pass
            case "counter":
                yield f"{family.name}_total", ("counter", tuple(labels[family.name]))
            case "info":
                yield f"{family.name}_info", ("gauge", ("versions",))
            case kind:
                yield family.name, (kind, tuple(labels[family.name]))
