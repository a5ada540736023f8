"""The shares of the picture that stages work on, before a job runs: those that the job itself then says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import example_scene
import numpy as np
import pytest
from intarsia_server.engine.encoder import Encoder
from intarsia_server.engine.inputs import Checked, check_inputs
from intarsia_server.engine.request import Box, Boxes, Scribbles, TransferRequest
from intarsia_server.engine.stages import StageStarted
from intarsia_server.engine.transfer import transfer

SIZE = WIDTH, HEIGHT = 224, 160


def labels() -> np.ndarray:
    """Segment 1 in a corner, segment 2 nearly everywhere else."""
    result = np.zeros((HEIGHT, WIDTH), np.uint8)
    result[-10:] = 2
    result[:, -100:] = 2
    result[:24, :30] = 1
    return result


def request(method: str = "sequential", **options: Any) -> Any:
    knobs: Mapping[str, Any] = {"steps": 1, "smoothing_steps": 1} if method == "sequential" else {}
    return example_scene.request(method, knobs, size=SIZE, label_map=labels(), **options)


def checked(of: TransferRequest) -> Checked:
    return check_inputs(of, max_pixels=10**6)


def test_label_maps_tell_the_shares_of_the_job(encoder: Encoder) -> None:
    of = request()
    events = transfer(of, example_scene.inputs(of), encoder, cancelled=lambda: False)
    said = {event.stage: event.share for event in events if isinstance(event, StageStarted)}
    found = checked(of)
    assert found.size == SIZE
    # 24 and 30 pixels and a margin of 48 end on the grid at 80 of 160 and 80 of 224.
    assert found.areas == {"segment 1": pytest.approx(80 * 80 / (WIDTH * HEIGHT)), "segment 2": 1.0}
    assert said == {"coarse": 1.0, "vanilla": 1.0, **found.areas, "smoothing": 1.0}


def test_a_box_is_as_large_as_its_object_can_be() -> None:
    boxes = Boxes(
        (Box(label=1, left=0, top=0, right=30, bottom=24), Box(label=2, left=0, top=0, right=200, bottom=150))
    )
    assert checked(request(segmentation=boxes)).areas == {"segment 2": 1.0}
    upside_down = Boxes(boxes.boxes[::-1])
    areas = checked(request(segmentation=upside_down)).areas
    assert areas == {"segment 1": pytest.approx(80 * 80 / (WIDTH * HEIGHT)), "segment 2": 1.0}


def test_what_scribbles_become_is_not_known() -> None:
    marks = labels()
    marks[60:100, 60:100] = 255
    assert not checked(request(segmentation=Scribbles(example_scene.png(marks)))).areas


@pytest.mark.parametrize("method", ["gatys", "blended", "masked-gram", "single-shot"])
def test_other_methods_have_no_windows(method: str) -> None:
    assert not checked(request(method)).areas


def test_the_publications_stages_have_none() -> None:
    assert not checked(request(paper=True)).areas
