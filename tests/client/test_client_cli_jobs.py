"""`intarsia jobs`, `stylize --detach`, and what a broken connection looks like on the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from command_line import STYLES, cli, stylize
from fake_server import picture, retry_info
from intarsia.v1 import style_transfer_pb2 as pb
from lasting_server import EVENTS, LastingServer

ONE, TWO = "3e6f1c3e-0000-4000-8000-000000000001", "3e6f1c3e-1111-4000-8000-000000000002"
REQUEST = "b7c19b52-0000-4000-8000-000000000003"


def jobs(fake: LastingServer, *arguments: str) -> tuple[int, str, str]:
    done = cli("jobs", *arguments, "--server", fake.address)
    return done.exit_code, done.stdout, done.stderr


def test_list(lasting: LastingServer, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lasting.fail(lasting.add(job_id=ONE), grpc.StatusCode.INTERNAL, "no")
    lasting.add(pb.JOB_STATE_RUNNING, job_id=TWO, fraction=0.25, kind="single_shot")
    code, stdout, _ = jobs(lasting, "list")
    assert code == 0
    header, second, first = stdout.splitlines()
    assert header.split() == ["job", "state", "kind", "pixels", "done", "sent", "ran"]
    assert second.split()[:5] == ["3e6f1c3e-1", "running", "single-shot", "60x40", "25%"]
    assert first.split()[:3] == ["3e6f1c3e-0", "failed", "masked-gram"]
    assert first.split()[-2:] == ["3.0", "s"]
    assert len(jobs(lasting, "list", "--state", "failed")[1].splitlines()) == 2
    assert len(jobs(lasting, "list", "--limit", "1")[1].splitlines()) == 2
    code, stdout, stderr = jobs(lasting, "list", "--json", "-")
    assert [job["jobId"] for job in json.loads(stdout)["jobs"]] == [TWO, ONE]
    assert "running" in stderr
    assert jobs(lasting, "list", "--state", "done")[0] == 2


def test_show(lasting: LastingServer, pictures: Path) -> None:
    lasting.fail(lasting.add(job_id=ONE, request_id=REQUEST, attempts=3), grpc.StatusCode.UNAVAILABLE, "[it] died")
    code, stdout, _ = jobs(lasting, "show", "3e6f")
    assert code == 0
    facts = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in stdout.splitlines()}
    assert (facts["job"], facts["request"], facts["state"]) == (ONE, REQUEST, "failed")
    assert (facts["error"], facts["attempts"]) == ("UNAVAILABLE: [it] died", "3")
    assert jobs(lasting, "show", ONE, "--json", "job.json")[0] == 0
    assert json.loads((pictures / "job.json").read_text())["state"] == "JOB_STATE_FAILED"


@pytest.mark.parametrize("command", ["show", "watch", "cancel", "result"])
def test_ids(lasting: LastingServer, pictures: Path, command: str) -> None:
    lasting.add(job_id=ONE)
    lasting.add(job_id=TWO)
    code, stdout, stderr = jobs(lasting, command, "3e6f")
    assert (code, stdout) == (2, "")
    assert stderr == f"intarsia: 2 jobs begin with 3e6f: {TWO}, {ONE}\n"
    code, stdout, stderr = jobs(lasting, command, "4")
    assert (code, stdout) == (2, "")
    assert stderr == "intarsia: there is no job 4: intarsia jobs list shows those that are kept\n"
    assert jobs(lasting, command, "3e6f1c3e-1")[0] == 0
    assert jobs(lasting, command, "")[0] == 2


@pytest.mark.parametrize(
    "command",
    [
        ["jobs", "list"],
        *(["jobs", name, ONE] for name in ("show", "watch", "cancel", "result")),
        ["stylize", "content.png", "--labels", "labels.png", *STYLES, "--detach"],
    ],
)
def test_a_private_server_has_no_jobs(pictures: Path, command: list[str]) -> None:
    done = cli(*command)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "needs a running server: name it with --server or INTARSIA_SERVER" in done.stderr


def test_watch(lasting: LastingServer, pictures: Path) -> None:
    lasting.add(job_id=ONE)
    lasting.breaks.append(3)
    code, stdout, stderr = jobs(lasting, "watch", "3e6f", "--events", "-")
    assert code == 0
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert [line["sequence"] for line in lines] == list(range(1, EVENTS + 1))
    assert all(list(line)[:3] == ["sequence", "event", "eventTime"] for line in lines)
    assert stderr.count("attached again") == 1
    assert "masked gram 2/2" in stderr
    assert stderr.endswith(f"done: intarsia jobs result {ONE} fetches the picture\n")
    assert len(jobs(lasting, "watch", "3e6f", "--after", "7", "--events", "-")[1].splitlines()) == 2


@pytest.mark.parametrize(("code", "exit_code"), [(grpc.StatusCode.INTERNAL, 1), (grpc.StatusCode.CANCELLED, 130)])
def test_a_job_that_did_not_succeed(
    lasting: LastingServer, pictures: Path, code: grpc.StatusCode, exit_code: int
) -> None:
    lasting.fail(lasting.add(job_id=ONE), code, "no luck")
    for command in ("watch", "result"):
        assert jobs(lasting, command, ONE)[0] == exit_code
        assert jobs(lasting, command, ONE)[2].endswith("intarsia: no luck\n")


def test_watch_and_ctrl_c(lasting: LastingServer, pictures: Path) -> None:
    lasting.add(pb.JOB_STATE_RUNNING, job_id=ONE)
    command = [sys.executable, "-m", "intarsia", "jobs", "watch", ONE, "--server", lasting.address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("stage 1"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest.endswith(f"intarsia: no longer watching; the job goes on: intarsia jobs cancel {ONE} ends it\n")
    assert not lasting.cancelled.is_set()


def test_cancel(lasting: LastingServer, pictures: Path) -> None:
    lasting.add(pb.JOB_STATE_RUNNING, job_id=ONE)
    lasting.add(job_id=TWO)
    assert jobs(lasting, "cancel", ONE, "4")[0] == 2
    assert not lasting.cancelled.is_set()
    code, stdout, _ = jobs(lasting, "cancel", ONE, TWO)
    assert (code, stdout) == (0, f"{ONE} cancelled\n{TWO} succeeded\n")


def test_result(lasting: LastingServer, pictures: Path) -> None:
    lasting.add(job_id=ONE)
    lasting.result_breaks.append(2)
    assert jobs(lasting, "result", "3e6f")[:2] == (0, f"{ONE}.png\n")
    assert (pictures / f"{ONE}.png").read_bytes() == picture()
    assert jobs(lasting, "result", ONE, "-o", "out.png")[:2] == (0, "out.png\n")
    code, _, stderr = jobs(lasting, "result", ONE, "-o", "out.jpg")
    assert (code, stderr) == (2, "intarsia: out.jpg: the picture is png, and its file's name must end with .png\n")
    assert not (pictures / "out.jpg").exists()


def test_detach(lasting: LastingServer, pictures: Path) -> None:
    lasting.endless = True
    done = stylize(lasting, "--detach", "--request-id", REQUEST, "-o", "a b.png")
    assert (done.exit_code, done.stdout) == (0, "job-1\n")
    assert done.stderr == "once it is done: intarsia jobs result job-1 -o 'a b.png'\n"
    assert lasting.requests[0].request_id == REQUEST
    assert lasting.requests[0].on_disconnect == pb.ON_DISCONNECT_DETACH
    assert not lasting.cancelled.is_set()
    assert stylize(lasting, "--detach", "--request-id", REQUEST).stdout == "job-1\n"


@pytest.mark.parametrize("flag", ["--previews", "--plot", "--events"])
def test_detach_and_nobody_who_watches(lasting: LastingServer, pictures: Path, flag: str) -> None:
    done = stylize(lasting, "--detach", flag, "x.png")
    assert done.exit_code == 2
    assert flag in done.stderr
    assert not lasting.requests


def test_a_break_is_one_line(lasting: LastingServer, pictures: Path) -> None:
    lasting.breaks.append(4)
    done = stylize(lasting, "-o", "out.png", "--events", "events.jsonl")
    assert done.exit_code == 0
    assert sum("attached again" in line for line in done.stderr.splitlines()) == 1
    assert "(UNAVAILABLE: Socket closed)" in done.stderr
    events = [json.loads(line) for line in (pictures / "events.jsonl").read_text().splitlines()]
    assert [event["sequence"] for event in events] == list(range(1, EVENTS + 1))


def test_a_busy_server(lasting: LastingServer, pictures: Path) -> None:
    lasting.refusals.append((grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", (retry_info(1),), ()))
    done = stylize(lasting, "-o", "out.png", "--wait-when-busy", "30")
    assert done.exit_code == 0
    assert "the server is busy: trying again in 1 s" in done.stderr


def test_a_request_id_that_is_taken(lasting: LastingServer, pictures: Path) -> None:
    lasting.refusals.append((grpc.StatusCode.ALREADY_EXISTS, "another request has this id", (), ()))
    assert stylize(lasting, "--request-id", REQUEST).exit_code == 2
