"""`intarsia stylize` when something goes wrong: messages, exit codes, what is left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from command_line import STYLES, cli, stylize
from fake_server import (
    FakeServer,
    Script,
    abort,
    bad_request,
    completed,
    endless_job,
    picture,
    result_chunks,
    result_header,
    retry_info,
)
from google.protobuf.message import Message
from intarsia.v1 import style_transfer_pb2 as pb

Serve = Callable[[Script], FakeServer]


def ending(code: grpc.StatusCode, message: str, *details: Message) -> Script:
    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
        abort(context, code, message, *details)
        yield completed()

    return script


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.gif"], "out.gif: the file's name must end with .png, .jpg, .jpeg, .webp"),
        (["-o", "nowhere/out.png"], "nowhere/out.png: there is no folder nowhere"),
        (["-o", "folder.png"], "folder.png is a folder"),
        (["--plot", "losses.txt"], "losses.txt: the file's name must end with .png, .pdf, .svg"),
        (["--events", "nowhere/events.jsonl"], "nowhere/events.jsonl: No such file or directory"),
        (["--previews", "content.png"], "content.png: File exists"),
        (["--method", "gatis"], "unknown method 'gatis'. Did you mean 'gatys'?"),
        (["--set", "tv=1"], "unknown parameter 'tv'. Did you mean 'tv_weight'?"),
        (["--set", "tv_weight"], "--set tv_weight: expected KEY=VALUE"),
        (["--set", "tv_weight=1", "--set", "tv_weight=2"], "--set tv_weight is given twice"),
        (["--style", "2"], "--style 2: expected LABEL=STYLE"),
        (["--style", "0=glass.png"], "--style 0 is given twice"),
        (["--style", "2=nowhere.png"], "nowhere.png: No such file or directory"),
        (["--style", "2=folder.png"], "folder.png: Is a directory"),
        (["--style", "red=brush.png"], "label 'red' is neither a number"),
        (["--memory", "much"], "memory: expected an amount such as 4GiB or 3000MiB, got 'much'"),
        (["--until", "now"], "until: expected one of steps, converged, got 'now'"),
        (["--precision", "fp8"], "unknown precision 'fp8'"),
        (["--server", "here"], "address 'here' is neither HOST:PORT nor unix:PATH"),
    ],
)
def test_wrong_usage(server: FakeServer, pictures: Path, arguments: list[str], message: str) -> None:
    (pictures / "folder.png").mkdir()
    done = stylize(server, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert not server.requests


@pytest.mark.parametrize(
    "arguments",
    [
        ["stylize", "nowhere.png", "--labels", "labels.png", *STYLES],
        ["stylize", "content.png", "--labels", "nowhere.png", *STYLES],
        ["stylize", "content.png", *STYLES],
        ["stylize", "content.png", "--labels", "labels.png"],
        ["stylize", "content.png", "--labels", "labels.png", *STYLES, "--preview-every", "0"],
        ["paint"],
    ],
)
def test_wrong_command_lines(pictures: Path, arguments: list[str]) -> None:
    assert cli(*arguments).exit_code == 2


def test_fields_are_named_as_they_were_typed(serve: Serve, pictures: Path) -> None:
    fields = [
        "segments[1].style.data",
        "segments[0].style_weight",
        "label_map.data",
        "content",
        "output.size",
        "masked_gram.steps",
        "optimization.learning_rate",
        "seed",
        "segments[9].labels",
        "segments",
        "encoder",
        "method",
        "optimization.start_image.data",
    ]
    details = bad_request(*((name, "is bad") for name in fields))
    fake = serve(ending(grpc.StatusCode.INVALID_ARGUMENT, "the request is bad", details))
    done = cli(
        *["stylize", "content.png", "--labels", "labels.png", "--server", fake.address],
        *["--style", "#00ff00=glass.png", "--style", "3=brush.png"],
    )
    assert done.exit_code == 2
    assert done.stderr == (
        "intarsia: the request is bad\n"
        "  --style #00ff00=glass.png (segments[1].style.data): is bad\n"
        "  --set 3.style_weight (segments[0].style_weight): is bad\n"
        "  --labels (label_map.data): is bad\n"
        "  CONTENT (content): is bad\n"
        "  --size (output.size): is bad\n"
        "  --steps (masked_gram.steps): is bad\n"
        "  --set learning_rate (optimization.learning_rate): is bad\n"
        "  --seed (seed): is bad\n"
        "  segments[9].labels: is bad\n"
        "  --style (segments): is bad\n"
        "  --encoder (encoder): is bad\n"
        "  --method (method): is bad\n"
        "  --set start_image (optimization.start_image.data): is bad\n"
    )


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 2),
        (grpc.StatusCode.FAILED_PRECONDITION, 2),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
        (grpc.StatusCode.ALREADY_EXISTS, 2),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 1),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.CANCELLED, 130),
    ],
)
def test_exit_codes(serve: Serve, pictures: Path, code: grpc.StatusCode, exit_code: int) -> None:
    done = stylize(serve(ending(code, "no luck", retry_info(7))), "-o", "out.png")
    assert done.exit_code == exit_code
    assert done.stderr == "intarsia: no luck\n  try again in 7 s\n"
    assert not (pictures / "out.png").exists()


def test_a_failed_job_leaves_the_old_result(serve: Serve, pictures: Path) -> None:
    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
        yield result_header(picture(), request, chunks=2)
        yield result_chunks(picture(), 2)[0]

    (pictures / "out.png").write_bytes(b"old")
    done = stylize(serve(script), "-o", "out.png")
    assert done.exit_code == 1
    assert "before the job was completed" in done.stderr
    assert (pictures / "out.png").read_bytes() == b"old"


def test_a_write_that_fails_leaves_nothing(server: FakeServer, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device", str(self))

    (pictures / "out.png").write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", full)
    done = stylize(server, "-o", "out.png")
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert (pictures / "out.png").read_text() == "old"
    assert not list(pictures.glob(".*"))


def test_nobody_there(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intarsia.cli.connect._CONNECT_TIMEOUT", 0.1)
    done = cli("info", "--server", f"unix:{pictures / 'x'}")
    assert done.exit_code == 1
    assert done.stderr.startswith("intarsia: no server could be reached at unix:")


@pytest.mark.parametrize("stdout", ["events", "path"])
def test_ctrl_c(serve: Serve, pictures: Path, stdout: str) -> None:
    fake = serve(endless_job)
    command = [sys.executable, "-m", "intarsia", "stylize", "content.png", "--labels", "labels.png", *STYLES]
    command += ["--server", fake.address, "-o", "out.png", *(["--events", "-"] if stdout == "events" else [])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("stage 1"):
                break
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=10)
    assert process.returncode == 130
    assert rest == "intarsia: cancelled\n"
    assert fake.ended.wait(5)
    assert not (pictures / "out.png").exists()
