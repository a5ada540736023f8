"""The benchmark against pastiche: one objective for both; and the service beside the engine."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from intarsia_server.engine.inputs import decode_inputs
from intarsia_server.engine.request import TransferRequest
from intarsia_server.engine.transfer import encoder_for
from PIL import Image

from bench import pastiche, service
from bench.clock import Race
from bench.example import MAX_PIXELS, example_message, example_request, new_encoder
from bench.options import Options
from bench.pastiche import PasticheArtist, Theirs
from bench.published import to_image

SIZE = 96


@pytest.fixture(scope="module")
def request_() -> TransferRequest:
    return example_request(SIZE, paper=True, precision="fp32")


@pytest.fixture(scope="module")
def pictures(request_: TransferRequest) -> tuple[np.ndarray, np.ndarray]:
    inputs = decode_inputs(request_, max_pixels=MAX_PIXELS)
    style = inputs.covers[0]
    assert style is not None
    return inputs.content, style


@pytest.fixture(scope="module")
def artist(pictures: tuple[np.ndarray, np.ndarray]) -> PasticheArtist:
    return pastiche.hire(*pictures)


def test_both_sides_have_the_same_pictures(artist: PasticheArtist, pictures: tuple[np.ndarray, np.ndarray]) -> None:
    content, style = pictures
    start = pastiche.to_pastiche(to_image(content))
    assert torch.allclose(start, artist.pastiche.detach(), atol=1e-3)
    assert artist.style_sizes == [list(style.shape[:2])] == [list(content.shape[:2])]


def test_both_sides_have_the_same_objective(
    artist: PasticheArtist, pictures: tuple[np.ndarray, np.ndarray], request_: TransferRequest
) -> None:
    content, style = map(to_image, pictures)
    image = content + 0.3 * torch.randn(content.shape, generator=torch.Generator().manual_seed(0))
    ours = pastiche.objective_of(encoder_for(request_, new_encoder(request_)), content, style)(image).total
    assert ours == pytest.approx(pastiche.judge_of(artist)(image), rel=1e-3)


def test_pastiche_is_timed_to_where_it_ends() -> None:
    theirs = Theirs(objective=2.0, curve=((1.0, 9.0), (2.0, 2.0), (3.0, 3.0), (4.0, 2.0)))
    assert theirs.seconds == 2.0
    assert Theirs(objective=1.0, curve=((1.0, 9.0), (2.0, 3.0))).seconds == 2.0


def test_the_engine_races_pastiche(pictures: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    (report,) = pastiche.run(Options(size=SIZE, steps=3, out=tmp_path))

    (figure,) = report.figures
    theirs, ours = report.facts["pastiche"], report.facts["intarsia"]
    assert (figure.goal, figure.at_least) == (5, True)
    assert figure.measured == pytest.approx(theirs["seconds"] / ours["seconds"])
    assert theirs["steps"] == 3
    assert len(ours["samples"]) == 3
    assert report.panel is not None
    rival, intarsia = report.panel.curves
    assert len(rival.objectives) == 3
    # Both start from the content image: the first objective of each is its own.
    assert intarsia.objectives[0] == pytest.approx(rival.objectives[0], rel=1e-3)
    assert intarsia.objectives[-1] <= report.panel.target


def test_an_objective_that_is_never_reached_is_missed() -> None:
    never = Race(steps=None, seconds=9.0, curve=((1.0, 5.0),))
    report = pastiche.report((64, 96), Theirs(objective=1.0, curve=((1.0, 1.0),)), never, [9.0])
    assert (report.figures[0].measured, report.figures[0].reached) == (None, False)


def test_every_job_brings_styles_that_nobody_has_seen() -> None:
    messages = [service.with_new_styles(example_message(SIZE), number) for number in (1, 2)]
    styles = [{segment.style.data for segment in message.segments} for message in messages]
    assert not styles[0] & styles[1]
    one, other = (np.asarray(Image.open(io.BytesIO(m.segments[0].style.data)), dtype=int) for m in messages)
    assert (one != other).any(axis=2).sum() == 1


def test_the_service_is_timed_beside_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTARSIA_THREADS", "1")
    (report,) = service.run(Options(size=SIZE, steps=3, rounds=2))

    overhead, progress = report.figures
    assert (overhead.goal, progress.goal) == (0.02, 2)
    facts = report.facts
    assert len(facts["engine"]) == len(facts["service"]) == len(facts["first_progress"]) == 2
    assert overhead.measured == pytest.approx(np.median(facts["service"]) / np.median(facts["engine"]) - 1)
    waits = [job["seconds"] / job["step"] for job in facts["first_progress"]]
    assert progress.measured == pytest.approx(np.median(waits))
