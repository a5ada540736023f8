"""Fixtures of the client's tests: a scripted server, and pictures in a working folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fake_server import FakeServer, Script, good_job, picture, running, serving
from lasting_server import LastingServer
from PIL import Image


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with content.png, labels.png, brush.png and glass.png; INTARSIA_SERVER is not set."""
    for name in ("content", "labels", "brush", "glass"):
        (tmp_path / f"{name}.png").write_bytes(picture())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INTARSIA_SERVER", raising=False)
    return tmp_path


@pytest.fixture
def serve() -> Iterator[Callable[[Script], FakeServer]]:
    """Starts servers that replay a script; they end with the test."""
    # Not tmp_path: with the test's name in it, it is too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="fake-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        yield lambda script: stack.enter_context(serving(f"unix:{folder / 'fake.sock'}", script))


@pytest.fixture
def server(serve: Callable[[Script], FakeServer]) -> FakeServer:
    """A server whose every job succeeds."""
    return serve(good_job)


@pytest.fixture
def lasting() -> Iterator[LastingServer]:
    """A server that keeps its jobs, and whose streams break where a test says so."""
    folder = Path(tempfile.mkdtemp(prefix="fake-"))
    with running(LastingServer(f"unix:{folder / 'fake.sock'}")) as fake:
        yield fake
    shutil.rmtree(folder)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small stand-in for the packaged example, so that the tests need not know its pictures."""
    folder = tmp_path / "modules" / "small_example"
    (folder / "styles").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "content.png").write_bytes(picture(60, 40, "navy"))
    for name in ("brush", "glass", "ink"):
        (folder / "styles" / f"{name}.png").write_bytes(picture(40, 40, "teal"))
    labels = Image.new("P", (60, 40))
    labels.paste(1, (20, 0, 40, 40))
    labels.paste(2, (40, 0, 60, 40))
    labels.save(folder / "labels.png")
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr("intarsia.cli.demo.EXAMPLE_PACKAGE", "small_example")
    return folder
