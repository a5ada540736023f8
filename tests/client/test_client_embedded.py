"""The embedded server's life: starting, failing, ending, with small programs in the real server's place."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import intarsia
import pytest
from command_line import STYLES, cli
from intarsia import AsyncClient, Client, EmbeddedServer, IntarsiaError

HEALTHY = """
import sys
from pathlib import Path
from fake_server import good_job, serving

address = sys.argv[sys.argv.index("--address") + 1]
assert "--exit-with-stdin" in sys.argv
with serving(address, good_job):
    sys.stdin.buffer.read()
Path(__file__).with_name("ended").touch()
"""

Install = Callable[[str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a program in the place of `python -m intarsia_server`, and all temporary files under the test's folder."""
    package = tmp_path / "p" / "intarsia_server"
    package.mkdir(parents=True)
    paths = [str(package.parent), str(Path(__file__).parent), str(Path(intarsia.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr("intarsia.embedded.require_server_packages", lambda: None)
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    monkeypatch.delenv("INTARSIA_SERVER", raising=False)

    def write(program: str) -> Path:
        (package / "__main__.py").write_text(program)
        return package

    return write


def left_behind(package: Path) -> list[Path]:
    return list((package.parents[1] / "t").iterdir())


def test_client_embedded(install: Install) -> None:
    package = install(HEALTHY)
    with Client.embedded() as client:
        assert client.address.startswith("unix:")
        assert client.server_info().ops == "torch"
        assert client.stylize(b"", labels=b"", styles={0: "keep"}).result().width == 60
    assert not left_behind(package)
    assert not Path(client.address.removeprefix("unix:")).exists()


def test_private_server_without_the_access_of_others(
    install: Install, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = "import os\nassert not [n for n in os.environ if n.startswith(('INTARSIA_TLS_', 'INTARSIA_TOKENS'))]\n"
    install(check + HEALTHY)
    for name in ("TLS_CERTIFICATE", "TLS_KEY", "TLS_CLIENT_CA", "TOKENS_FILE"):
        monkeypatch.setenv(f"INTARSIA_{name}", "/nowhere")
    monkeypatch.setenv("INTARSIA_TOKEN", "two words: nothing that could be sent")
    done = cli("stylize", "content.png", "--labels", "labels.png", *STYLES)
    assert done.exit_code == 0, done.stderr


def test_async_client_embedded(install: Install) -> None:
    package = install(HEALTHY)

    async def go() -> str:
        async with AsyncClient.embedded() as client:
            return (await client.server_info()).ops

    assert asyncio.run(go()) == "torch"
    assert not left_behind(package)


def test_cli_with_a_private_server(install: Install, pictures: Path) -> None:
    install(HEALTHY)
    done = cli("stylize", "content.png", "--labels", "labels.png", *STYLES)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.startswith("starting a private server\n")


def test_a_server_that_dies_shows_its_log(install: Install, pictures: Path) -> None:
    package = install("import sys; print('first'); sys.exit('out of memory, alas')")
    done = cli("stylize", "content.png", "--labels", "labels.png", *STYLES)
    assert done.exit_code == 1
    assert "the embedded server ended with exit code 1; its log ends:\nfirst\nout of memory, alas\n" in done.stderr
    assert not left_behind(package)


def test_a_server_that_dies_during_the_job_shows_its_log(install: Install, pictures: Path) -> None:
    die = "def good_job(*_):\n    import os\n    os.write(2, b'bus error')\n    os._exit(1)\n"
    install(HEALTHY.replace("import good_job, serving", f"import serving\n{die}"))
    done = cli("stylize", "content.png", "--labels", "labels.png", *STYLES)
    assert done.exit_code == 1
    assert "the private server's log ends:\nbus error\n" in done.stderr


def test_a_server_that_never_listens(install: Install) -> None:
    package = install("import time; time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(IntarsiaError, match=r"not up within 0\.3 s") as caught, EmbeddedServer(start_timeout=0.3):
        pass
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert time.monotonic() - started < 5
    assert not left_behind(package)


def test_a_server_that_will_not_end_is_killed(install: Install) -> None:
    install(f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN){HEALTHY}\nimport time; time.sleep(60)")
    server = EmbeddedServer()
    server.start()
    with Client(server.address) as client:
        client.wait_ready(5)
    started = time.monotonic()
    server.stop(grace=0.3)
    assert 0.3 <= time.monotonic() - started < 5
    server.stop()


def test_stopped_before_it_started(install: Install) -> None:
    install(HEALTHY)
    server = EmbeddedServer()
    server.stop()
    with pytest.raises(IntarsiaError, match="stopped before"):
        server.start()


def test_a_killed_client_leaves_no_server(install: Install) -> None:
    package = install(HEALTHY)
    program = (
        "import intarsia.embedded as e, sys, time; e.require_server_packages = lambda: None\n"
        "with e.EmbeddedServer(): print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        client.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while not (package / "ended").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (package / "ended").exists()


def test_socket_paths_stay_short(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(HEALTHY)
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with EmbeddedServer() as server:
        assert len(server.address) < 100
    assert not list(long.iterdir())
    assert not Path(server.address.removeprefix("unix:")).parent.exists()
