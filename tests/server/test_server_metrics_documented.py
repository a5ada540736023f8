"""docs/operations.md lists every metric and every setting."""

from __future__ import annotations

import re
from pathlib import Path

from intarsia_server.settings import Settings
from known_metrics import registered

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def table_of(section: str) -> list[list[str]]:
    """Cells of the section's first table, without its head."""
    _, _, text = OPERATIONS.partition(f"\n## {section}\n")
    _, _, text = text.partition("\n|---")
    rows = text.partition("\n")[2].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_metrics() -> None:
    documented = {
        name: (kind, tuple(quoted(labels)) or ((labels,) if labels else ()))
        for names, kind, labels, _ in table_of("Metrics")
        for name in quoted(names)
        if not name.startswith("process_")
    }
    assert documented == dict(registered())
    assert len(documented) > 20


def test_settings() -> None:
    of_the_server = {f"INTARSIA_{name.upper()}": field for name, field in Settings.model_fields.items()}
    of_the_client = {
        name
        for file in (ROOT / "client" / "intarsia").rglob("*.py")
        for name in re.findall(r'(?:envvar=|environ\.get\()"(INTARSIA_\w+)"', file.read_text())
    }
    assert len(of_the_client) >= 6
    documented = {name: default for names, default, _ in table_of("Settings") for name in quoted(names)}
    assert {name for name in documented if name.startswith("INTARSIA_")} == set(of_the_server) | of_the_client
    for name, field in of_the_server.items():
        if isinstance(field.default, bool):
            assert documented[name] == f"`{str(field.default).lower()}`", name
        elif isinstance(field.default, int | float):
            assert documented[name] == f"`{field.default:.15g}`", name
        elif isinstance(field.default, str) and field.default:
            assert documented[name] == f"`{field.default}`", name


def test_alerts_name_metrics_that_there_are() -> None:
    _, _, text = OPERATIONS.partition("\n## Metrics\n")
    text = text.partition("\n## ")[0]
    known = dict(registered())
    for name in re.findall(r"intarsia_\w+", text):
        assert name in known or known[name.removesuffix("_bucket")][0] == "histogram"
