"""Looks over the Dockerfile and the chart with the tools that will read them: `make deploy-lint`.

hadolint reads the Dockerfile. The chart is linted and rendered by Helm's own engine, with several values, and every
manifest checked against the schemas of several Kubernetes versions, strictly: an unknown field is an error. Queries of
the dashboard and of the alerts have to parse.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import yaml
from helm_python.chart import Chart, lint
from helm_python.errors import HelmValuesError

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy/helm/intarsia"
KUBERNETES = ("1.27", "1.31", "1.35")

PLAIN = {"tls": {"enabled": False}}
GOOD: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "plain text": PLAIN,
    "on the CPU": {"gpu": {"count": 0}},
    "everything": {
        "autoscaling": {"enabled": True},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "tls": {"clientCertificates": True},
        "tokens": {"secret": "intarsia-tokens"},
        "gpu": {"count": 2, "runtimeClassName": "nvidia"},
        "persistence": {"storageClass": "fast"},
        "settings": {"INTARSIA_QUEUE_CAPACITY": "32", "INTARSIA_LOG_FORMAT": "text"},
        "imagePullSecrets": [{"name": "registry"}],
        "podAnnotations": {"example": "yes"},
        "podLabels": {"team": "art"},
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
    },
}
BAD: dict[str, dict[str, Any]] = {
    "tokens in plain text": PLAIN | {"tokens": {"secret": "intarsia-tokens"}},
    "a setting that the chart makes itself": {"settings": {"INTARSIA_ADDRESS": "0.0.0.0:1"}},
    "a value that there is not": {"replica": 2},
}
SCHEMALESS = {"ServiceMonitor"}
"""Of the Prometheus operator's, whose schema Kubernetes does not have."""


def manifests(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What Helm makes of the chart."""
    rendered = Chart.load(CHART).render(values, name="demo", namespace="default")
    for name, text in rendered.items():
        if name.endswith(".yaml"):
            yield from (manifest for manifest in yaml.safe_load_all(text) if manifest)


def lint_chart() -> Iterator[str]:
    """Everything that is wrong with it."""
    for name, values in GOOD.items():
        report = lint(CHART, values, strict=True)
        yield from (
            f"{name}: {message['path']}: {message['error']}"
            for message in report["messages"]
            if message["severity"] > 1
        )
        yield from (f"{name}: {error}" for error in report["errors"])
        kinds = []
        for manifest in manifests(values):
            kinds.append(manifest["kind"])
            for version in KUBERNETES if manifest["kind"] not in SCHEMALESS else ():
                try:
                    kubernetes_validate.validate(manifest, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    yield f"{name}: Kubernetes {version}: {manifest['kind']}: {error.message}"
        print(f"chart, {name}: {', '.join(kinds)} with Kubernetes {', '.join(KUBERNETES)}")
    for name, values in BAD.items():
        try:
            Chart.load(CHART).render(values, name="demo", namespace="default")
        except HelmValuesError:
            print(f"chart, {name}: refused")
        else:
            yield f"{name}: is not refused"


def lint_queries() -> Iterator[str]:
    """Those that are no PromQL."""
    board = json.loads((ROOT / "deploy/grafana/intarsia.json").read_text())
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yaml").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    for query in queries:
        try:
            promql_parser.parse(query.replace("$__rate_interval", "1m"))
        except ValueError as error:
            yield f"{query}: {error}"
    print(f"queries: {len(queries)} read")


def main() -> int:
    """Exit code 0: nothing to say; 1: something."""
    hadolint = Path(sys.executable).with_name("hadolint")
    failed = subprocess.run((hadolint, ROOT / "Dockerfile"), check=False).returncode != 0
    print(f"hadolint: {'not clean' if failed else 'clean'}")
    problems = [*lint_chart(), *lint_queries()]
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return int(failed or bool(problems))


if __name__ == "__main__":
    sys.exit(main())
