"""Compose, chart, dashboard and alerts agree with the service and with each other."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from deployment import (
    CHART,
    DEPLOY,
    GRPC,
    METRICS,
    ROOT,
    STATEFULSET,
    USER,
    alerts,
    compose,
    dashboard,
    environment,
    expressions,
    seconds,
    values,
)
from intarsia_server.settings import Settings
from known_metrics import registered

SERVER = compose()["services"]["intarsia"]
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_every_metric_exists() -> None:
    known = dict(registered())
    asked = {name for expression in expressions() for name in re.findall(r"\bintarsia_\w+", expression)}
    for name in asked:
        assert name in known or known[name.removesuffix("_bucket")][0] == "histogram"
    assert {name.removesuffix("_bucket") for name in asked} >= known.keys() - {"intarsia_checkpoints"}


def test_labels_exist() -> None:
    known = dict(registered())
    for expression in expressions():
        for name, selected in re.findall(r"\b(intarsia_\w+)\{(.*?)\}", expression):
            labels = known[name.removesuffix("_bucket")][1]
            assert set(re.findall(r"(\w+)=", selected)) <= {*labels, "instance", "job"}, expression
        for grouped in re.findall(r"by \((.*?)\)", expression):
            (name,) = re.findall(r"\bintarsia_\w+", expression)
            assert set(grouped.split(", ")) <= {*known[name.removesuffix("_bucket")][1], "le", "instance"}, expression


def test_alerts_are_the_documented_ones() -> None:
    _, _, table = (ROOT / "docs" / "operations.md").read_text().partition("| alert |")
    documented = table.partition("\n\n")[0].replace("\\|", "|")
    for rule in alerts():
        for part in re.findall(r"intarsia_\w+(?:\{.*?\})?(?:\[\w+\])?", rule["expr"]):
            assert part in documented, rule["alert"]
        if rule["alert"] not in {"IntarsiaDown", "IntarsiaJobsFail"}:  # by another label; summed
            assert rule["expr"] in documented, rule["alert"]


def test_dashboard() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    source = (DEPLOY / "grafana" / "datasources.yaml").read_text()
    assert all(f"uid: {panel['datasource']['uid']}\n" in source for panel in panels)


def settings_of(text: str) -> set[str]:
    return set(re.findall(r"\bINTARSIA_[A-Z_]+\b", text))


def test_every_setting_exists() -> None:
    known = {f"INTARSIA_{name.upper()}" for name in Settings.model_fields}
    clients = {"INTARSIA_CLIENT_CERTIFICATE", "INTARSIA_CLIENT_KEY"}
    files = [ROOT / "Dockerfile", *(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".pyc")]
    used = {path: settings_of(path.read_text()) for path in files}
    assert sum(map(bool, used.values())) >= 5
    for path, names in used.items():
        assert names <= known | clients, path


def test_settings_that_compose_gives_are_good(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (environment("gpu") | SERVER["environment"]).items():
        if name.startswith("INTARSIA_"):
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.address == f"0.0.0.0:{GRPC}"
    assert settings.metrics_address == f"0.0.0.0:{METRICS}"


def test_the_image_as_it_comes_refuses_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTARSIA_ADDRESS", environment("gpu")["INTARSIA_ADDRESS"])
    with pytest.raises(ValueError, match="INTARSIA_PLAINTEXT"):
        Settings()


def test_ports() -> None:
    assert values()["port"] == GRPC
    assert values()["metricsPort"] == METRICS
    assert SERVER["ports"] == [f"127.0.0.1:{GRPC}:{GRPC}"]
    assert f"intarsia:{METRICS}" in (DEPLOY / "prometheus" / "prometheus.yaml").read_text()


def test_graces() -> None:
    """Whoever ends the server waits until its drain is over, and a little longer."""
    drain = Settings.model_fields["drain_seconds"].default
    assert float(SERVER["environment"]["INTARSIA_DRAIN_SECONDS"]) == drain == values()["drainSeconds"]
    assert seconds(SERVER["stop_grace_period"]) >= drain + 10
    (more,) = re.findall(r"terminationGracePeriodSeconds: \{\{ add \.Values\.drainSeconds (\d+) \}\}", STATEFULSET)
    assert int(more) >= 10


def test_compose_is_locked_up() -> None:
    for service in compose()["services"].values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert SERVER["volumes"] == [f"data:{environment('gpu')['INTARSIA_DATA_DIR']}"]
    assert SERVER["build"]["target"] == "gpu"
    assert SERVER["healthcheck"]["test"] == ["CMD", "intarsia-health"]


def test_files_that_compose_mounts_are_there() -> None:
    for service in compose()["services"].values():
        for mount in service["volumes"]:
            source = mount.partition(":")[0]
            assert source in compose()["volumes"] or (DEPLOY / source).is_file()


def test_the_chart_is_locked_up() -> None:
    for line in ("runAsNonRoot: true", f"runAsUser: {USER}", f"fsGroup: {USER}", "readOnlyRootFilesystem: true",
                 "type: RuntimeDefault", "drop: [ALL]", "allowPrivilegeEscalation: false"):  # fmt: skip
        assert line in STATEFULSET
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert f"{probe}:" in STATEFULSET


def test_values() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(values(), SCHEMA)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("replica",), 2),
        (("gpu", "count"), -1),
        (("port",), "50051"),
        (("settings",), {"INTARSIA_DATA_DIR": "/tmp"}),
        (("settings",), {"QUEUE": "1"}),
        (("settings",), {"INTARSIA_QUEUE_CAPACITY": 1}),
        (("tls",), {"enabled": True, "secret": "", "clientCertificates": False}),
        (("tls",), {"enabled": False, "secret": "", "clientCertificates": True}),
        (("persistence", "size"), "much"),
    ],
)
def test_bad_values_are_refused(path: tuple[str, ...], value: Any) -> None:
    changed = copy.deepcopy(values())
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, SCHEMA)


def test_tokens_need_tls() -> None:
    changed = values()
    changed["tokens"]["secret"] = "intarsia-tokens"
    jsonschema.validate(changed, SCHEMA)
    changed["tls"]["enabled"] = False
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, SCHEMA)


def test_the_chart_sets_what_the_schema_keeps_for_it() -> None:
    kept = set(SCHEMA["properties"]["settings"]["propertyNames"]["not"]["enum"])
    assert kept == set(re.findall(r"- name: (INTARSIA_\w+)", STATEFULSET))


def test_every_value_is_used() -> None:
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())

    def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
        return [leaf for key, value in tree.items()
                for leaf in (leaves(value, f"{prefix}.{key}") if isinstance(value, dict) and value
                             and key not in {"resources"} else [f"{prefix}.{key}"])]  # fmt: skip

    for leaf in leaves(values()):
        assert f".Values{leaf}" in templates, leaf
    for used in re.findall(r"\.Values((?:\.\w+)+)", templates):
        assert any(leaf == used or leaf.startswith(f"{used}.") for leaf in leaves(values())), used


def test_versions() -> None:
    chart = Path(CHART / "Chart.yaml").read_text()
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"\nversion: {version}\n" in chart
    assert f"\nappVersion: {version}\n" in chart
