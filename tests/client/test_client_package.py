"""The package as a whole: what importing it costs, and its names."""

from __future__ import annotations

import subprocess
import sys

import intarsia
import pytest


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_import_is_light() -> None:
    assert not loaded_by("import intarsia") & {"grpc", "google.protobuf", "PIL", "rich", "typer"}


def test_client_needs_neither_torch_nor_numpy() -> None:
    loaded = loaded_by("import intarsia, intarsia.cli; intarsia.Client; intarsia.AsyncClient")
    assert "grpc" in loaded
    assert not loaded & {"torch", "numpy", "matplotlib", "intarsia_server"}


def test_every_exported_name_is_there() -> None:
    for name in intarsia.__all__:
        assert getattr(intarsia, name) is not None
    assert set(intarsia.__all__) <= set(dir(intarsia))
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        intarsia.Klient  # noqa: B018
