"""`intarsia info`, `serve` and `demo`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from command_line import STYLES, cli
from fake_server import FakeServer, picture
from PIL import Image


def test_info(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = cli("info", "--server", server.address)
    assert done.exit_code == 0
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    facts = {name: rest.strip() for name, rest in rows.items()}
    assert facts["intarsia"] == "1.2.3"
    assert facts["server"] == server.address
    assert facts["device cuda:0"] == "A card, 80.0 GiB"
    assert facts["device cuda:1"] == "A card, 3.0 of 80.0 GiB in use here"
    assert facts["up for"] == "1 day, 2:03:04"
    assert facts["encoders"] == "embedded (default), torchvision"
    assert facts["methods"] == "gatys, masked-gram"
    assert facts["precision"] == "bf16"
    assert facts["jobs"] == "0 running, 0 queued of 16"
    assert facts["largest picture"] == "50 megapixels"
    assert facts["largest message"] == "64 MiB"
    assert facts["largest upload"] == "256 MiB"
    assert facts["client"]


def without_torch(name: str) -> object:
    return None if name == "torch" else object()


INSTALL = "pip install 'intarsia[server]', or name a running one with --server\n"


@pytest.mark.parametrize(
    "command", [["serve"], ["demo"], ["stylize", "content.png", "--labels", "labels.png", *STYLES]]
)
def test_server_packages_missing(
    pictures: Path, example: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr("intarsia.embedded.importlib.util.find_spec", without_torch)
    done = cli(*command)
    assert done.exit_code == 2
    assert done.stderr.splitlines(keepends=True)[-1].endswith(INSTALL)
    assert "not installed here (torch missing)" in done.stderr


def test_info_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INTARSIA_SERVER", raising=False)
    monkeypatch.setattr("intarsia.embedded.importlib.util.find_spec", without_torch)
    done = cli("info")
    assert done.exit_code == 0
    assert done.stdout.startswith("client")
    assert done.stderr.endswith(INSTALL)


@pytest.mark.parametrize(("arguments", "rest"), [([], []), (["--address", "[::]:1"], ["--address", "[::]:1"])])
def test_serve_becomes_the_server(monkeypatch: pytest.MonkeyPatch, arguments: list[str], rest: list[str]) -> None:
    calls: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("intarsia.embedded.importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr(os, "execv", lambda path, argv: calls.append((path, argv)))
    assert cli("serve", *arguments).exit_code == 0
    assert calls == [(sys.executable, [sys.executable, "-m", "intarsia_server", *rest])]


def test_help_lists_the_commands() -> None:
    done = cli("--help")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in ("stylize", "serve", "info", "demo"))
    assert "masked-gram" in cli("stylize", "--help").stdout


def test_demo(server: FakeServer, pictures: Path, example: Path) -> None:
    done = cli("demo", "-o", "new/demo", "--size", "60", "--steps", "2", "--server", server.address)
    assert done.exit_code == 0, done.stderr
    methods = ["sequential", "sequential-smooth", "single-shot", "blended"]
    assert done.stdout.splitlines() == [f"new/demo/{name}.png" for name in [*methods, "contact-sheet"]]
    assert "Attempt 2: sequential-smooth took 3.0 s" in done.stderr
    assert [request.WhichOneof("method") for request in server.requests] == [name.replace("-", "_") for name in methods]
    assert all(len(request.segments) == 3 and request.output.size == 60 for request in server.requests)
    assert server.requests[1].sequential_smooth.steps == 2
    for name in methods:
        assert Image.open(pictures / f"new/demo/{name}.losses.png").format == "PNG"
        assert (pictures / f"new/demo/{name}.png").read_bytes() == picture()
    sheet = Image.open(pictures / "new/demo/contact-sheet.png").convert("RGB")
    assert sheet.width == 2000
    places = [(sheet.width * part // 8, sheet.height - 250) for part in (1, 3, 5, 7)]
    assert [sheet.getpixel(place) for place in places] == [(255, 165, 0)] * 4


def test_demo_into_a_file(server: FakeServer, pictures: Path, example: Path) -> None:
    done = cli("demo", "-o", "content.png", "--server", server.address)
    assert done.exit_code == 2
    assert "content.png: File exists" in done.stderr
