"""The files that deploy the service, read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "intarsia"
STATEFULSET = (CHART / "templates" / "statefulset.yaml").read_text()

GRPC, METRICS = 50051, 9464
USER = 10001


def stages() -> dict[str, list[tuple[str, str]]]:
    """The Dockerfile's stages by name: their instructions and what follows them, the first FROM's own left out."""
    text = (ROOT / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]
    found: dict[str, list[tuple[str, str]]] = {"": []}
    for instruction, rest in lines:
        if instruction == "FROM":
            found[rest.rpartition(" AS ")[2]] = []
        else:
            found[list(found)[-1]].append((instruction, re.sub(r"\s+", " ", rest)))
    return found


def arguments() -> dict[str, str]:
    """Of the whole Dockerfile, with their defaults."""
    return {name: value.strip('"') for _, rest in stages()[""] for name, _, value in [rest.partition("=")]}


def instruction(stage: str, name: str) -> str:
    """What follows the stage's only instruction of that name."""
    (found,) = [rest for each, rest in stages()[stage] if each == name]
    return found


def environment(stage: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for name, rest in stages()[stage] if name == "ENV" for pair in rest.split())


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return read


def values() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    return read


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DEPLOY / "grafana" / "intarsia.json").read_text())
    return read


def alerts() -> list[dict[str, Any]]:
    read = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    return [rule for group in read["groups"] for rule in group["rules"]]


def seconds(text: str) -> int:
    """Of "45s" or "2m"."""
    return int(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def expressions() -> Iterator[str]:
    """Every query that somebody makes of Prometheus."""
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"]["query"] for variable in dashboard()["templating"]["list"])
    yield from (rule["expr"] for rule in alerts())
    yield from re.findall(r"name: (intarsia_\w+)", (CHART / "templates" / "hpa.yaml").read_text())
