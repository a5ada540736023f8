"""`intarsia stylize` against a scripted server, when all goes well: requests, files, what is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from command_line import STYLES, cli, stylize
from fake_server import (
    FakeServer,
    Script,
    completed,
    event_field,
    good_job,
    picture,
    progress,
    result_chunks,
    result_header,
)
from google.protobuf.message import Message
from intarsia.cli.history import TOTAL, History
from intarsia.v1 import style_transfer_pb2 as pb
from PIL import Image

Serve = Callable[[Script], FakeServer]


def test_stylize_writes_the_result_and_prints_its_path(server: FakeServer, pictures: Path) -> None:
    done = stylize(server, "-o", "out.png")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "out.png\n"
    assert (pictures / "out.png").read_bytes() == picture()
    assert not list(pictures.glob(".*"))
    assert "stage 1 of 1: masked gram, 2 steps" in done.stderr
    assert "masked gram 2/2  loss 2.25  style 1.5  content 0.75  ETA 0:00" in done.stderr
    request = server.requests[0]
    assert request.content.data == (pictures / "content.png").read_bytes()
    assert request.segments[0].style.data == (pictures / "brush.png").read_bytes()
    assert request.segments[1].keep


def test_default_name(server: FakeServer, pictures: Path) -> None:
    assert stylize(server, "--method", "single-shot").stdout == "content.single-shot.png\n"
    assert (pictures / "content.single-shot.png").exists()


def test_flags_reach_the_request(server: FakeServer, pictures: Path) -> None:
    flags = (
        "--method sequential --paper --size 320 --steps 9 --until converged --seed 5 --precision fp32 "
        "--preview-every 4 --memory 1.5GiB"
    )
    knobs = "--set smoothing_steps=8 --set optimizer=adam --set 0.style_weight=2"
    assert stylize(server, *flags.split(), *knobs.split()).exit_code == 0
    request = server.requests[0]
    assert request.paper
    assert (request.output.size, request.sequential.steps, request.seed) == (320, 9, 5)
    assert (request.precision, request.preview_interval) == (pb.PRECISION_FP32, 4)
    assert (request.sequential.smoothing_steps, request.optimization.optimizer) == (8, pb.OPTIMIZER_ADAM)
    assert request.optimization.until == pb.UNTIL_CONVERGED
    assert request.optimization.memory_bytes == 3 * 2**29
    assert request.segments[0].style_weight == 2


@pytest.mark.parametrize(("name", "file_format"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP")])
def test_format_follows_the_suffix(server: FakeServer, pictures: Path, name: str, file_format: str) -> None:
    assert stylize(server, "-o", name).exit_code == 0
    assert Image.open(pictures / name).format == file_format


def test_server_from_the_environment(server: FakeServer, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTARSIA_SERVER", server.address)
    done = cli("stylize", "content.png", "--labels", "labels.png", *STYLES)
    assert done.exit_code == 0, done.stderr


def read_events(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_events_file(serve: Serve, pictures: Path) -> None:
    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
        *first, _, _ = good_job(request, context)
        yield from first
        yield pb.WarningEvent(code="odd", message="something odd")
        yield pb.HeartbeatEvent()
        yield result_header(picture(), request, chunks=2)
        yield from result_chunks(picture(), 2)
        yield completed()

    done = stylize(serve(script), "-o", "out.png", "--events", "events.jsonl", "--preview-every", "1")
    assert done.exit_code == 0, done.stderr
    assert "warning: something odd (odd)" in done.stderr
    events = read_events((pictures / "events.jsonl").read_text())
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    steps = ["progress", "preview", "progress", "preview"]
    end = ["warning", "heartbeat", "result", "result_chunk", "result_chunk", "completed"]
    assert [event["event"] for event in events] == ["accepted", "stage", *steps, *end]
    assert list(events[0])[:3] == ["sequence", "event", "eventTime"]
    accepted, stage, progress, preview = events[:4]
    assert accepted["eventTime"] == "2023-11-14T22:13:21Z"
    assert (accepted["jobId"], accepted["queuePosition"], accepted["width"]) == ("job-1", 0, 60)
    assert (stage["index"], stage["stageCount"]) == (0, 1)
    assert (progress["stage"], progress["step"], progress["totalSteps"], progress["eta"]) == ("masked gram", 1, 2, "1s")
    assert progress["losses"] == [
        {"name": "content", "value": 1.5},
        {"name": "style", "segment": 0, "value": 1.0},
        {"name": "style", "segment": 1, "value": 2.0},
    ]
    assert set(preview) == {"sequence", "event", "eventTime", "stage", "step"}
    header, chunk = events[8], events[9]
    assert (header["sizeBytes"], header["format"]) == (len(picture()), "IMAGE_FORMAT_PNG")
    assert "image" not in header
    assert chunk["offset"] == 0
    assert "data" not in chunk
    summary = events[-1]["stages"]
    none = {"finalLosses": [], "finalTotalLoss": 0.0, "converged": False, "targets": 0, "cachedTargets": 0}
    assert summary == [{"stage": "masked gram", "steps": 2, "runTime": "3s", **none}]


def test_targets_from_the_cache_are_told(serve: Serve, pictures: Path) -> None:
    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
        *others, end = good_job(request, context)
        assert isinstance(end, pb.CompletedEvent)
        end.stages[0].targets, end.stages[0].cached_targets = 3, 2
        end.stages.add(stage="smoothing", targets=1, cached_targets=1)
        yield from (*others, end)

    done = stylize(serve(script), "-o", "out.png", "--events", "events.jsonl")
    assert done.stderr.endswith("done in 3.0 s; 3 of 4 style targets from the cache\n")
    stages = read_events((pictures / "events.jsonl").read_text())[-1]["stages"]
    assert [(stage["targets"], stage["cachedTargets"]) for stage in stages] == [(3, 2), (1, 1)]
    assert stylize(serve(good_job), "-o", "out.png").stderr.endswith("done in 3.0 s\n")


def test_numbers_that_json_has_not(serve: Serve, pictures: Path) -> None:
    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
        yield pb.ProgressEvent(total_loss=float("nan"), fraction=float("-inf"))
        yield from good_job(request, context)

    stylize(serve(script), "--events", "events.jsonl")
    first = read_events((pictures / "events.jsonl").read_text())[0]
    assert (first["totalLoss"], first["fraction"]) == ("NaN", "-Infinity")


def test_events_to_stdout_leave_it_to_them(server: FakeServer, pictures: Path) -> None:
    done = stylize(server, "-o", "out.png", "--events", "-")
    assert len(read_events(done.stdout)) == 6
    assert "out.png" in done.stderr


def test_previews(server: FakeServer, pictures: Path) -> None:
    assert stylize(server, "--previews", "new/folder").exit_code == 0
    assert server.requests[0].preview_interval == 10
    names = sorted(path.name for path in (pictures / "new/folder").iterdir())
    assert names == ["0001-masked-gram-1.jpg", "0002-masked-gram-2.jpg"]
    assert Image.open(pictures / "new/folder" / names[0]).size == (30, 20)


def test_plot(server: FakeServer, pictures: Path) -> None:
    done = stylize(server, "--plot", "losses.png", "--preview-every", "1")
    assert done.exit_code == 0, done.stderr
    plot = Image.open(pictures / "losses.png")
    plot.load()
    assert plot.format == "PNG"
    assert plot.width > 1000
    colours = {colour for _, colour in plot.convert("RGB").getcolors(1 << 24) or []}
    assert (255, 165, 0) in colours  # the result's
    assert (0, 128, 131) in colours  # the previews': teal, through JPEG


def test_plot_without_matplotlib(server: FakeServer, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("intarsia.cli.plotting.importlib.util.find_spec", lambda _: None)
    done = stylize(server, "--plot", "losses.png")
    assert done.exit_code == 2
    assert done.stderr == "intarsia: a plot needs matplotlib: pip install 'intarsia[plot]'\n"
    assert not server.requests


def test_bar_on_a_terminal(server: FakeServer, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    done = stylize(server)
    assert done.exit_code == 0, done.stderr
    assert "step 2/2" in done.stderr
    assert "loss 2.25" in done.stderr
    assert "100%" in done.stderr


def early_stage(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
    """Its first stage converges after 33 of 200 steps."""
    yield pb.AcceptedEvent(width=60, height=40)
    yield pb.StageEvent(stage="vanilla", stage_count=2, total_steps=200)
    for step in range(1, 34):
        end = step == 33
        share = 0.5 if end else step / 400
        yield pb.ProgressEvent(stage="vanilla", step=step, total_steps=200, total_loss=3, fraction=share, converged=end)
    yield pb.StageEvent(stage="smoothing", index=1, stage_count=2, total_steps=2)
    for step in (1, 2):
        yield pb.ProgressEvent(stage="smoothing", step=step, total_steps=2, total_loss=1, fraction=(2 + step) / 4)
    yield from list(good_job(request, context))[-2:]


def test_plain_lines_say_that_a_stage_has_converged(serve: Serve, pictures: Path) -> None:
    done = stylize(serve(early_stage), "--until", "converged")
    assert done.exit_code == 0, done.stderr
    assert "vanilla 20/200  loss 3\nvanilla 33/200  loss 3  converged\nstage 2 of 2" in done.stderr
    assert done.stderr.count("converged") == 1


def test_bar_of_a_stage_that_has_converged(serve: Serve, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    done = stylize(serve(early_stage), "--until", "converged")
    assert done.exit_code == 0, done.stderr
    assert "step 2/2" in done.stderr
    assert "100%" in done.stderr


def test_plain_lines_are_few(serve: Serve, pictures: Path) -> None:
    def script(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
        yield pb.AcceptedEvent(queue_position=3, width=60, height=40)
        yield pb.QueuedEvent(queue_position=1)
        for index, stage in enumerate(("vanilla", "smoothing")):
            yield pb.StageEvent(stage=stage, index=index, stage_count=2, total_steps=200)
            for step in range(1, 201):
                yield pb.ProgressEvent(stage=stage, step=step, total_steps=200, total_loss=1 / step)
        yield from list(good_job(request, context))[-2:]

    done = stylize(serve(script))
    assert done.exit_code == 0, done.stderr
    assert "accepted: 60 x 40 pixels, 3 before it\nqueued, 1 before it\n" in done.stderr
    assert "stage 2 of 2: smoothing, 200 steps\nsmoothing 20/200  loss 0.05\n" in done.stderr
    assert done.stderr.count("smoothing ") == 10
    assert done.stderr.count("vanilla ") == 10


def interrupted(request: pb.StylizeRequest, context: grpc.ServicerContext) -> Iterator[Message]:
    """A job whose worker dies in its second stage, after a checkpoint, and whose client has missed events."""
    yield pb.AcceptedEvent(job_id="job-1", request_id=request.request_id, width=60, height=40)
    yield pb.StageEvent(stage="coarse", stage_count=2, total_steps=2)
    yield progress(1, stage="coarse")
    job = pb.Job(job_id="job-1", state=pb.JOB_STATE_RUNNING, fraction=0.5)
    yield pb.SnapshotEvent(job=job, progress=progress(2, stage="coarse"))
    yield pb.StageEvent(stage="blend", index=1, stage_count=2, total_steps=4)
    for step in (1, 2, 3):
        yield progress(step, 4, stage="blend")
    yield pb.ResumedEvent(stage="blend", step=1)
    for step in (2, 3, 4):
        yield progress(step, 4, stage="blend")
    yield result_header(picture(), request)
    yield completed()


def test_an_interrupted_job_is_shown_as_such(serve: Serve, pictures: Path) -> None:
    done = stylize(serve(interrupted), "-o", "out.png")
    assert done.exit_code == 0, done.stderr
    assert "running: coarse 2/2\n" in done.stderr
    assert "the job was interrupted and goes on after blend 1\n" in done.stderr
    assert done.stderr.count("blend 3/4") == 2


def test_a_plot_has_no_step_twice() -> None:
    history = History()
    for event in interrupted(pb.StylizeRequest(), None):  # type: ignore[arg-type]
        response = pb.StylizeResponse()
        getattr(response, event_field(event)).CopyFrom(event)
        history(response)
    assert [[step for step, _ in curve] for curve in history.curves[TOTAL]] == [[1], [2, 3, 4, 5]]
    history(pb.StylizeResponse(resumed=pb.ResumedEvent()))
    assert (history.stages, history.steps) == ([], 0)
    assert all(not curve for curves in history.curves.values() for curve in curves)
