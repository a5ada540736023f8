"""Evaluation: both clients and `intarsia evaluate` against a scripted server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import grpc
import pytest
from command_line import cli, stylize
from fake_server import FakeServer, abort, bad_request, good_evaluation, picture
from intarsia import AsyncClient, Client, IntarsiaError, RequestError, build_evaluation
from intarsia.cli.judgements import FIGURES
from intarsia.v1 import style_transfer_pb2 as pb
from PIL import Image
from typer.testing import Result

STYLES = {0: b"style", 1: b"other"}
REPORT = ("--report", "report.html")


@pytest.fixture
def scene(pictures: Path) -> Path:
    """The working folder, with a label map of two halves and two results of other colours."""
    halves = Image.new("L", (60, 40))
    halves.paste(1, (30, 0, 60, 40))
    halves.save(pictures / "labels.png")
    (pictures / "one.png").write_bytes(picture(colour="teal"))
    (pictures / "two.jpg").write_bytes(picture(colour="red", file_format="JPEG"))
    return pictures


def evaluate(fake: FakeServer, *arguments: str, results: tuple[str, ...] = ("one.png", "two.jpg")) -> Result:
    styles = ("--style", "0=brush.png", "--style", "1=glass.png")
    where = ("--labels", "labels.png", "--server", fake.address)
    return cli("evaluate", "content.png", *results, *where, *styles, *arguments)


def test_the_builder_fills_every_field() -> None:
    request = build_evaluation(b"content", b"result", labels=b"labels", styles={1: "keep", 0: b"style"}, encoder="mine")
    assert (request.content.data, request.result.data, request.label_map.data) == (b"content", b"result", b"labels")
    assert [list(segment.labels) for segment in request.segments] == [[0], [1]]
    assert (request.segments[0].style.data, request.segments[1].keep) == (b"style", True)
    assert request.encoder == "mine"


def test_the_builder_refuses_what_no_request_can_carry() -> None:
    with pytest.raises(RequestError, match="either styles or segments"):
        build_evaluation(b"content", b"result", labels=b"labels")


def test_client(server: FakeServer) -> None:
    with Client(server.address) as client:
        found = client.evaluate(b"content", b"result", labels=b"labels", styles=STYLES, timeout=5)
    assert found.transition == 0.25
    assert not found.HasField("palette")
    assert server.evaluations[0].result.data == b"result"
    assert server.deadlines[0] is not None
    assert server.deadlines[0] <= 5.5  # gRPC rounds it up on the wire


def test_async_client(server: FakeServer) -> None:
    async def go() -> pb.EvaluateResponse:
        async with AsyncClient(server.address) as client:
            return await client.evaluate(b"content", b"result", labels=b"labels", styles=STYLES, timeout=5)

    assert asyncio.run(go()).transition == 0.25


def refuse_result(request: pb.EvaluateRequest, context: grpc.ServicerContext) -> pb.EvaluateResponse:
    abort(context, grpc.StatusCode.INVALID_ARGUMENT, "result.data: bad", bad_request(("result.data", "is empty")))
    raise AssertionError


def test_errors_name_their_fields(server: FakeServer) -> None:
    server.judge = refuse_result
    with Client(server.address) as client, pytest.raises(IntarsiaError) as raised:
        client.evaluate(b"content", b"", labels=b"labels", styles=STYLES)
    assert raised.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.violations == (("result.data", "is empty"),)


def test_table(server: FakeServer, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    done = evaluate(server)
    assert done.exit_code == 0, done.stderr
    header, *lines = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines()]
    rows = {name: rest for name, *rest in lines}
    assert header[:2] == ["one", "two"]
    assert rows["style margin"][:2] == ["0.500", "0.500"]
    assert rows["label 0"] == ["0.500", "0.500", "brush.png"]
    assert rows["label 1"] == ["–", "–", "glass.png"]
    assert rows["palette"][:2] == ["–", "–"]
    assert rows["seam"][:2] == ["1.000", "1.001"]
    assert rows["of the content"][:2] == ["2.500", "2.500"]
    assert "evaluating two.jpg" in done.stderr
    assert [request.result.data for request in server.evaluations] == [
        (scene / name).read_bytes() for name in ("one.png", "two.jpg")
    ]
    assert server.evaluations[0].segments[1].style.data == (scene / "glass.png").read_bytes()


def test_three_results_fit_into_80_columns(server: FakeServer, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    results = tuple(f"cup.{method}.320.png" for method in ("blended", "single-shot", "sequential-smooth"))
    for name in results:
        (scene / name).write_bytes(picture())
    lines = evaluate(server, results=results).stdout.splitlines()
    assert len(lines) == 2 + len(FIGURES) + 3  # a name on two lines, and three rows in parts
    assert lines[0].split() == ["sequential-"]
    assert re.split(r"\s{2,}", lines[1].strip()) == ["blended", "single-shot", "smooth", "how to read it"]
    rows = [line for line in lines[2:] if not line.startswith("  ")]
    assert all(row.rstrip().endswith(figure.reading) for figure, row in zip(FIGURES, rows, strict=True))


def test_a_style_scale_is_sent(server: FakeServer, scene: Path) -> None:
    assert evaluate(server, "--set", "1.style_scale=2").exit_code == 0
    plain, scaled = server.evaluations[0].segments
    assert not plain.HasField("style_scale")
    assert scaled.style_scale == 2


def test_warnings_are_shown_everywhere(server: FakeServer, scene: Path) -> None:
    def judge(request: pb.EvaluateRequest, context: grpc.ServicerContext) -> pb.EvaluateResponse:
        response = good_evaluation(request, context)
        response.warnings.add(code="label_colours_snapped", message="moved <far>")
        return response

    server.judge = judge
    done = evaluate(server, "--json", "figures.json", *REPORT)
    line = "warning: moved <far> (label_colours_snapped)"
    assert done.stderr.count(f"{line}\n") == 2
    first = json.loads((scene / "figures.json").read_text())["results"][0]
    assert first["warnings"] == [{"code": "label_colours_snapped", "message": "moved <far>"}]
    assert f"{line}: one, two" in Page((scene / "report.html").read_text()).words


def test_names_that_are_no_text(server: FakeServer, scene: Path) -> None:
    names = [os.fsdecode(b"content\xff.png"), os.fsdecode(b"one\xff.png"), os.fsdecode(b"style\xff.png")]
    for name in names:
        (scene / name).write_bytes(picture())
    where = ("--labels", "labels.png", "--style", f"0={names[2]}", "--style", "1=keep", "--server", server.address)
    done = cli("evaluate", *names[:2], *where, *REPORT, "--json", "figures.json")
    assert done.exit_code == 0, done.output
    assert "one?" in done.stdout
    assert "style?.png" in done.stdout
    assert json.loads((scene / "figures.json").read_text())["results"][0]["result"] == "one?.png"
    assert "content?.png" in "".join(Page((scene / "report.html").read_text()).words)


def test_json(server: FakeServer, scene: Path) -> None:
    assert evaluate(server, "--json", "figures.json", "--encoder", "mine").exit_code == 0
    written = json.loads((scene / "figures.json").read_text())
    assert written["content"] == "content.png"
    first, second = written["results"]
    assert (first["result"], second["result"]) == ("one.png", "two.jpg")
    assert (first["styleMargin"], first["transition"], first["structure"]) == (0.5, 0.25, 0.5)
    assert "palette" not in first
    assert first["margins"][0] == {"segment": 0, "area": 0.6, "distance": 0.3, "margin": 0.5, "nearest": 1}
    assert first["borders"][0]["curve"][0] == {"offset": -10.0, "value": 0.0}
    assert server.evaluations[0].encoder == "mine"


def test_json_to_stdout_is_alone_there(server: FakeServer, scene: Path) -> None:
    done = evaluate(server, "--json", "-")
    assert len(json.loads(done.stdout)["results"]) == 2
    assert "transition" in done.stderr


def test_a_refused_result_is_named_by_its_file(server: FakeServer, scene: Path) -> None:
    server.judge = refuse_result
    done = evaluate(server)
    assert done.exit_code == 2
    assert done.stderr.endswith("intarsia: one.png (result.data): is empty\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--report", "report.pdf"), "must end with .html"),
        (("--json", "figures.txt"), "must end with .json"),
        (("--report", "missing/report.html"), "there is no folder missing"),
        (("--style", "0=glass.png"), "--style 0 is given twice"),
        (("--events", "one.png", *REPORT), "one.png: line 1 is no event"),
        (("--events", "empty.json", *REPORT), "empty.json: line 1 is no event"),
        (("--previews", "empty", *REPORT), "empty: there is no preview in it"),
        (("--events", "empty.json"), "--events needs --report"),
        (("--previews", "empty"), "--previews needs --report"),
        (("--set", "1.style_weight=2"), "--set 1.style_weight: an evaluation takes LABEL.style_scale=VALUE alone"),
        (("--set", "style_scale=2"), "--set style_scale: an evaluation takes LABEL.style_scale=VALUE alone"),
        (("--set", "7.style_scale=2"), "no segment has the label 7"),
        (("--previews", "empty") * 3, "--previews is given 3 times, for 2 results"),
    ],
)
def test_wrong_usage(server: FakeServer, scene: Path, arguments: tuple[str, ...], message: str) -> None:
    (scene / "empty").mkdir()
    (scene / "empty.json").write_text("{}\n")
    done = evaluate(server, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not server.evaluations


def test_a_missing_result(server: FakeServer, scene: Path) -> None:
    assert evaluate(server, results=("missing.png",)).exit_code == 2


class Page(HTMLParser):
    """What a report holds; every element that is opened has to be closed."""

    VOID = frozenset({"meta", "img", "line", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.images: dict[str, list[Image.Image]] = {}
        self.counts: dict[str, int] = {}
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        named = dict(attrs)
        assert not {"href", "onload", "onclick", "srcset"} & set(named)
        if tag == "img":
            kind, _, data = str(named["src"]).partition(",")
            assert kind == "data:image/jpeg;base64"
            opened = Image.open(io.BytesIO(base64.b64decode(data)))
            opened.load()
            self.images.setdefault(str(named["alt"]), []).append(opened)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_report(server: FakeServer, scene: Path) -> None:
    made = stylize(server, "-o", "job.png", "--events", "job.jsonl", "--previews", "previews", "--preview-every", "1")
    assert made.exit_code == 0
    done = evaluate(server, "--report", "report.html", "--events", "job.jsonl", "--previews", "previews")
    assert done.exit_code == 0, done.stderr
    text = (scene / "report.html").read_text()
    assert "http" not in text
    assert "url(" not in text
    page = Page(text)
    assert "script" not in page.counts
    assert "link" not in page.counts
    assert "prefers-color-scheme: dark" in text
    # Pictures and, for each border place, close-ups.
    assert page.images["one"][0].size == (60, 40)
    red, green, blue = page.images["two"][0].getpixel((30, 20))  # type: ignore[misc]  # RGB
    assert red > 240
    assert max(green, blue) < 10
    assert len(page.images["one"]) == len(page.images["two"]) == len(page.images["content"]) + 1 >= 2
    assert {"Content image", "Label map", "Style of label 0", "Style of label 1"} <= set(page.images)
    assert [name for name in page.images if "step" in name] == ["masked gram, step 1", "masked gram, step 2"]
    assert page.counts["polyline"] == 2 + 3 + 4  # transitions, seams and the content's, losses
    words = " ".join(page.words)
    assert "Evaluation of one, two" in words
    assert "label 0: brush → label 1: glass" in words
    assert "The way to one" in words
    assert "The way to two" not in words
    assert "0.250" in words


def test_report_of_one_picture_without_borders(server: FakeServer, scene: Path) -> None:
    Image.new("L", (60, 40)).save(scene / "labels.png")
    server.judge = lambda *_: pb.EvaluateResponse(width=60, height=40, content=1, structure=0.5)
    where = ("--labels", "labels.png", "--style", "0=brush.png", "--server", server.address)
    done = cli("evaluate", "content.png", "one.png", *where, "--report", "report.html")
    assert done.exit_code == 0, done.stderr
    page = Page((scene / "report.html").read_text())
    assert "polyline" not in page.counts
    assert "Borders close up" not in page.words


def test_names_are_escaped_and_told_apart(server: FakeServer, scene: Path) -> None:
    (scene / "a").mkdir()
    for name in ("<b>[x].png", "a/<b>[x].png"):
        (scene / name).write_bytes(picture())
    done = evaluate(server, "--report", "report.html", results=("<b>[x].png", "a/<b>[x].png"))
    assert done.exit_code == 0, done.stderr
    page = Page((scene / "report.html").read_text())
    assert "b" not in page.counts
    assert "a/<b>[x].png" in page.words


def test_help() -> None:
    assert "RESULT..." in cli("evaluate", "--help").stdout
    assert "evaluate" in cli("--help").stdout
